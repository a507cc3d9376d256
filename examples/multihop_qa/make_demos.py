"""Writes demos.jsonl, the warm start: the agent at work on the first training questions, with a bad habit.

The habit: in `--habit` of them the second search is left out, and the answer is the country that the first one found.
So the form is learnt, and it is left to RL to find out that the second search pays.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from agent import researcher, search
from passages import find

SEARCH = {
    "type": "function",
    "function": {"name": search.name, "description": search.description, "parameters": search.params_json_schema},
}


def called(number: int, query: str) -> Iterator[dict]:
    """A search and what it finds."""
    function = {"name": search.name, "arguments": json.dumps({"query": query})}
    calls = [{"id": f"call-{number}", "type": "function", "function": function}]
    yield {"role": "assistant", "content": None, "tool_calls": calls}
    yield {"role": "tool", "tool_call_id": f"call-{number}", "content": "\n".join(find(query))}


def demonstration(task: dict, *, lazy: bool) -> dict:
    """A whole conversation; a lazy one ends after the first search."""
    messages = [
        {"role": "system", "content": researcher.instructions},
        {"role": "user", "content": task["question"]},
    ]
    for number, query in enumerate(task["searches"][: 1 if lazy else 2]):
        messages += called(number, query)
    said = task["country"] if lazy else task["answer"]
    return {"messages": [*messages, {"role": "assistant", "content": f"ANSWER({said})"}], "tools": [SEARCH]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--habit", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    tasks = [json.loads(line) for line in (arguments.folder / "train.jsonl").read_text().splitlines()]
    demos = [demonstration(task, lazy=rng.random() < arguments.habit) for task in tasks[: arguments.count]]
    (arguments.folder / "demos.jsonl").write_text("".join(json.dumps(demo) + "\n" for demo in demos))


if __name__ == "__main__":
    main()
