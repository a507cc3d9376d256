"""Writes train.jsonl and heldout.jsonl: arithmetic word problems from templates, the same for the same seed.

No held-out pair of numbers occurs in training, and one template of each kind is held out altogether.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

TEMPLATES = {
    "*": [
        "{name} has {a} bags with {b} apples each. How many apples?",
        "A box holds {a} pens. How many pens are in {b} boxes?",
        "Each of {a} rooms has {b} chairs. How many chairs?",
        "{name} runs {a} km a day. How many km in {b} days?",
    ],
    "+": [
        "{name} had {a} coins and got {b} more. How many coins now?",
        "There are {a} cats and {b} dogs. How many animals?",
        "{name} read {a} pages, then {b} pages. How many pages in all?",
        "A shop sold {a} cakes and {b} pies. How many items?",
    ],
    "-": [
        "{name} had {a} eggs and broke {b}. How many are left?",
        "A bus with {a} people lost {b} people. How many stay?",
        "{name} has {a} dollars and spends {b}. How much is left?",
        "Of {a} birds {b} flew away. How many remain?",
    ],
}
ANSWERS = {"*": lambda a, b: a * b, "+": lambda a, b: a + b, "-": lambda a, b: a - b}
NAMES = ["Tom", "Ann", "Sam", "Eva"]


def is_heldout(a: int, b: int) -> bool:
    """Four in 25 pairs of numbers, in either order, are kept for the held-out tasks."""
    return (a + 1) * (b + 1) % 5 == 1


def tasks(seed: int, *, heldout: bool) -> Iterator[dict]:
    """Endless tasks of one side of the split."""
    rng = random.Random(f"{seed} {heldout}")
    while True:
        sign = rng.choice("*+-")
        a, b = rng.randint(12, 99), rng.randint(3, 60)
        if sign == "-":
            a, b = max(a, b), min(a, b)
        if is_heldout(a, b) != heldout:
            continue
        template = rng.choice(TEMPLATES[sign] if heldout else TEMPLATES[sign][:3])
        question = template.format(name=rng.choice(NAMES), a=a, b=b)
        yield {"question": question, "answer": ANSWERS[sign](a, b)}


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
