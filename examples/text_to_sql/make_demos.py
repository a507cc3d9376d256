"""Writes demos.jsonl, the warm start: each role of the team shown at work on the training questions, with a bad habit.

The habit: in the share `--habit` of the drafts everything is selected (`SELECT * FROM ...`) whatever was asked. So the
form is learnt, success is not yet the rule, and it is left to RL to find out which of the two drafts pays.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator

from execution import run_query
from prompts import CHECKER, REWRITER, SHOWN_CHARACTERS, SHOWN_ROWS, WRITER
from reward import FOLDER, score

CHECKED = 0.4
"""The checker learns its form fast: it is shown on so many of the tasks."""
HABIT = re.compile(r"^select .*? from (\w+).*$", re.IGNORECASE | re.DOTALL)


def conversation(system: str, parts: tuple[str, ...], answer: str) -> dict:
    """A call of one agent, and what it says."""
    asked = [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(parts)}]
    return {"messages": [*asked, {"role": "assistant", "content": answer}]}


def demonstrations(task: dict, other: dict, habit: float, rng: random.Random) -> Iterator[dict]:
    """One of each role: a first draft, a verdict, and another draft after a bad one. `other` is another task."""
    gold, question, schema = task["gold"], task["question"], task["schema"]
    everything = HABIT.sub(r"SELECT * FROM \1", gold)
    draft, again = (everything if rng.random() < habit else gold for _ in range(2))
    yield conversation(WRITER, (schema, question), draft)
    judged = rng.choice([gold, gold, everything, other["gold"]])
    if rng.random() < CHECKED:
        yield conversation(CHECKER, (question, judged, shown(task, judged)), "OK" if score(task, judged) else "BAD")
    bad = rng.choice([everything, other["gold"]])
    yield conversation(REWRITER, (schema, question, bad, shown(task, bad)), again)


def shown(task: dict, sql: str) -> str:
    """What the agents see of a query's result."""
    return run_query(min((FOLDER / task["database"]).glob("*.sqlite")), sql).shown(SHOWN_ROWS, SHOWN_CHARACTERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--habit", type=float, default=0.65)
    parser.add_argument("--tasks", type=int, default=240, help="so many training tasks, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    tasks = [json.loads(line) for line in (FOLDER / "train.jsonl").read_text().splitlines()]
    tasks = rng.sample(tasks, min(arguments.tasks, len(tasks)))
    made = (demonstrations(task, rng.choice(tasks), arguments.habit, rng) for task in tasks)
    lines = [json.dumps(demo) for demos in made for demo in demos]
    (FOLDER / "demos.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
