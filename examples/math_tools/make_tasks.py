"""Writes train.jsonl and heldout.jsonl: word problems of one step and two from templates, the same for the same seed.

No held-out numbers occur in training, and one template of each kind is held out altogether. `--source gsm-symbolic`
takes reasoning-gym's templates of GSM8K instead, `--source calc-x` and `gsm8k` a user's own files.
"""

import argparse
import itertools
import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

from published import FORMS, read

TEMPLATES = {
    "a*b": [
        "{name} has {a} bags with {b} apples each. How many apples?",
        "A box holds {a} pens. How many pens are in {b} boxes?",
        "Each of {a} rooms has {b} chairs. How many chairs?",
        "{name} runs {a} km a day. How many km in {b} days?",
    ],
    "a+b": [
        "{name} had {a} coins and got {b} more. How many coins now?",
        "There are {a} cats and {b} dogs. How many animals?",
        "{name} read {a} pages, then {b} pages. How many pages in all?",
        "A shop sold {a} cakes and {b} pies. How many items?",
    ],
    "a-b": [
        "{name} had {a} eggs and broke {b}. How many are left?",
        "A bus with {a} people lost {b} people. How many stay?",
        "{name} has {a} dollars and spends {b}. How much is left?",
        "Of {a} birds {b} flew away. How many remain?",
    ],
    "a*b-c": [
        "A shop has {a} boxes with {b} pens each and sells {c} pens. How many pens are left?",
        "{name} bakes {a} trays of {b} rolls, and {c} rolls burn. How many are good?",
        "{name} has {a} bags with {b} nuts each and eats {c} nuts. How many nuts remain?",
        "A hall has {a} rows of {b} seats, and {c} seats are taken. How many are free?",
    ],
    "a*b+c": [
        "{name} saves {a} dollars a week for {b} weeks and finds {c} more. How many dollars now?",
        "A farm has {a} fields of {b} trees and plants {c} more. How many trees?",
        "{name} has {a} packs of {b} cards and {c} loose cards. How many cards?",
        "A train has {a} cars with {b} people each, and {c} people get on. How many people?",
    ],
}
ANSWERS = {
    "a*b": lambda a, b, c: a * b,
    "a+b": lambda a, b, c: a + b,
    "a-b": lambda a, b, c: a - b,
    "a*b-c": lambda a, b, c: a * b - c,
    "a*b+c": lambda a, b, c: a * b + c,
}
NAMES = ["Tom", "Ann", "Sam", "Eva"]


def is_heldout(a: int, b: int) -> bool:
    """Four in 25 pairs of numbers, in either order, are kept for the held-out tasks."""
    return (a + 1) * (b + 1) % 5 == 1


def from_templates(seed: int, *, heldout: bool) -> Iterator[dict]:
    """Endless tasks of one side of the split."""
    rng = random.Random(f"{seed} {heldout}")
    while True:
        kind = rng.choice(list(TEMPLATES))
        a, b, c = rng.randint(12, 99), rng.randint(3, 60), rng.randint(2, 19)
        if kind == "a-b":
            a, b = max(a, b), min(a, b)
        if is_heldout(a, b) != heldout:
            continue
        template = rng.choice(TEMPLATES[kind] if heldout else TEMPLATES[kind][:-1])
        question = template.format(name=rng.choice(NAMES), a=a, b=b, c=c)
        yield {"question": question, "answer": str(ANSWERS[kind](a, b, c)), "kind": kind, "numbers": [a, b, c]}


def from_gsm_symbolic(seed: int, count: int) -> Iterator[dict]:
    """Problems from GSM-Symbolic's templates (arXiv:2410.05229), numbers and names drawn anew, of the one difficulty
    that the library offers.

    The library does not name a problem's template; the names of its variables tell templates apart.
    """
    import reasoning_gym  # takes seconds to import

    for row in reasoning_gym.create_dataset("gsm_symbolic", size=count, seed=seed):
        kind = zlib.crc32(" ".join(sorted(row["metadata"]["variables"])).encode())
        yield {"question": row["question"], "answer": row["answer"], "kind": str(kind)}


def distinct(tasks: Iterator[dict], count: int) -> list[dict]:
    """The first `count` tasks that ask different things."""
    found: dict[str, dict] = {}
    for task in tasks:
        found.setdefault(task["question"], task)
        if len(found) == count:
            break
    return list(found.values())


def write(path: Path, tasks: list[dict]) -> None:
    path.write_text("".join(json.dumps({"id": f"{path.stem}-{i}", **task}) + "\n" for i, task in enumerate(tasks)))


def sides(arguments: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """The tasks to train on and those held out."""
    train, heldout, seed = arguments.train, arguments.heldout, arguments.seed
    if arguments.source == "templates":
        return (
            distinct(from_templates(seed, heldout=False), train),
            distinct(from_templates(seed, heldout=True), heldout),
        )
    if arguments.source == "gsm-symbolic":
        tasks = list(from_gsm_symbolic(seed, 2 * (train + 5 * heldout)))  # a fifth of the templates is held out
        apart = (task for task in tasks if int(task["kind"]) % 5 == 0)
        return distinct((task for task in tasks if int(task["kind"]) % 5), train), distinct(apart, heldout)
    if not arguments.train_file or not arguments.heldout_file:
        raise SystemExit(f"--source {arguments.source} needs --train-file and --heldout-file")
    train_tasks = itertools.islice(read(arguments.train_file, arguments.source), train)
    return list(train_tasks), list(itertools.islice(read(arguments.heldout_file, arguments.source), heldout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--source", choices=["templates", "gsm-symbolic", *FORMS], default="templates")
    parser.add_argument("--train-file", type=Path, help="for calc-x and gsm8k")
    parser.add_argument("--heldout-file", type=Path)
    parser.add_argument("--train", type=int, default=512)
    parser.add_argument("--heldout", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, tasks in zip(("train", "heldout"), sides(arguments), strict=True):
        write(arguments.folder / f"{name}.jsonl", tasks)


if __name__ == "__main__":
    main()
