"""Writes train.jsonl and heldout.jsonl: word problems of two steps, the same for the same seed.

No held-out triple of numbers occurs in training, and one template of each kind is held out altogether.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

TEMPLATES = {
    "a*b-c": [
        "A shop has {a} boxes with {b} pens each and sells {c} pens. How many pens are left?",
        "{name} bakes {a} trays of {b} rolls, and {c} rolls burn. How many are good?",
        "A hall has {a} rows of {b} seats, and {c} seats are taken. How many are free?",
    ],
    "a*b+c": [
        "{name} saves {a} dollars a week for {b} weeks and finds {c} more. How many dollars now?",
        "A train has {a} cars with {b} people each, and {c} people get on. How many people?",
        "A farm has {a} fields of {b} trees and plants {c} more. How many trees?",
    ],
    "a+b-c": [
        "{name} had {a} stamps, got {b} and gave away {c}. How many are left?",
        "A bus with {a} people takes on {b} and lets off {c}. How many people?",
        "A tank held {a} liters, took in {b} and lost {c}. How many liters?",
    ],
}
ANSWERS = {
    "a*b-c": lambda a, b, c: a * b - c,
    "a*b+c": lambda a, b, c: a * b + c,
    "a+b-c": lambda a, b, c: a + b - c,
}
NAMES = ["Tom", "Ann", "Sam", "Eva"]


def is_heldout(a: int, b: int, c: int) -> bool:
    """One in five triples is kept for the held-out tasks."""
    return (a + b + c) % 5 == 0


def tasks(seed: int, *, heldout: bool) -> Iterator[dict]:
    """Endless tasks of one side of the split."""
    rng = random.Random(f"{seed} {heldout}")
    while True:
        kind = rng.choice(list(TEMPLATES))
        a, b, c = rng.randint(12, 60), rng.randint(3, 20), rng.randint(2, 14)
        if is_heldout(a, b, c) != heldout:
            continue
        template = rng.choice(TEMPLATES[kind] if heldout else TEMPLATES[kind][:2])
        question = template.format(name=rng.choice(NAMES), a=a, b=b, c=c)
        yield {"question": question, "answer": ANSWERS[kind](a, b, c)}


def write(path: Path, count: int, seed: int, *, heldout: bool) -> None:
    """The first `count` different tasks, one JSON object a line."""
    lines: dict[str, dict] = {}
    for task in tasks(seed, heldout=heldout):
        lines.setdefault(task["question"], task)
        if len(lines) == count:
            break
    path.write_text("".join(json.dumps({"id": f"{path.stem}-{i}", **t}) + "\n" for i, t in enumerate(lines.values())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--train", type=int, default=512)
    parser.add_argument("--heldout", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.folder / "train.jsonl", arguments.train, arguments.seed, heldout=False)
    write(arguments.folder / "heldout.jsonl", arguments.heldout, arguments.seed, heldout=True)
