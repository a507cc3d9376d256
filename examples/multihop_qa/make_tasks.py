"""Writes passages.jsonl, train.jsonl and heldout.jsonl; the same for the same seed.

The questions take two passages of an invented world (world.py), and the held-out ones are about names and countries
that training never asks about. `--source musique` or `hotpotqa` takes a user's own files instead.
"""

import argparse
import json
import random
from pathlib import Path

from published import FORMS, read
from world import Question, halves, questions


def chosen(asked: list[Question], count: int, rng: random.Random) -> list[dict]:
    """Some questions as tasks. `searches` are queries that find the country, then what is asked of it."""
    return [
        {
            "question": one.text,
            "answer": one.answer,
            "kind": f"{one.kind} {one.asked}",
            "searches": [f"{one.kind} {one.bridge}", f"{one.asked} {one.country}"],
            "country": one.country,
        }
        for one in rng.sample(asked, min(count, len(asked)))
    ]


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def numbered(name: str, tasks: list[dict]) -> list[dict]:
    return [{"id": f"{name}-{i}", **task} for i, task in enumerate(tasks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--source", choices=["world", *FORMS], default="world")
    parser.add_argument("--train-file", type=Path, help="for musique and hotpotqa")
    parser.add_argument("--heldout-file", type=Path)
    parser.add_argument("--train", type=int, default=512)
    parser.add_argument("--heldout", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder, rng = arguments.folder, random.Random(arguments.seed)
    if arguments.source == "world":
        worlds = halves(arguments.seed)
        texts = [passage for countries in worlds for country in countries for passage in country.passages()]
        sides = (
            numbered("train", chosen(questions(worlds[0], heldout=False), arguments.train, rng)),
            numbered("heldout", chosen(questions(worlds[1], heldout=True), arguments.heldout, rng)),
        )
    elif arguments.train_file and arguments.heldout_file:
        train, told = read(arguments.train_file, arguments.source, arguments.train, rng)
        heldout, told_too = read(arguments.heldout_file, arguments.source, arguments.heldout, rng)
        sides, texts = (train, heldout), list(dict.fromkeys([*told, *told_too]))
    else:
        raise SystemExit(f"--source {arguments.source} needs --train-file and --heldout-file")
    rng.shuffle(texts)
    write(folder / "passages.jsonl", [{"text": text} for text in texts])
    for name, tasks in zip(("train", "heldout"), sides, strict=True):
        write(folder / f"{name}.jsonl", tasks)


if __name__ == "__main__":
    main()
