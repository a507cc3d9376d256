"""Writes demos.jsonl, the warm start: the solver at work on the first training problems, with a bad habit.

The habit: in `--habit` of them it guesses, as if it had worked the problem out in its head, and leaves the calculator
alone. So the form of a call is learnt, and it is left to RL to find out that calling pays.
"""

import argparse
import asyncio
import json
import random
from pathlib import Path

from autogen_core.tools import FunctionTool
from calculator import calculator
from prompts import SOLVER

TOOL = {"type": "function", "function": FunctionTool(calculator, description=calculator.__doc__ or "").schema}


def called(number: int, expression: str) -> list[dict]:
    """A call of the calculator, and what it says."""
    function = {"name": "calculator", "arguments": json.dumps({"expression": expression})}
    calls = [{"id": f"call-{number}", "type": "function", "function": function}]
    result = asyncio.run(calculator(expression))
    return [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": f"call-{number}", "content": result},
    ]


def demonstration(task: dict, guess: int | None) -> dict:
    """A whole conversation: a call for each sign of the problem's kind, such as a*b-c; none for a guess."""
    messages = [{"role": "system", "content": SOLVER}, {"role": "user", "content": task["question"]}]
    value, *others = map(str, task["numbers"])
    if guess is not None:
        value, others = str(guess), []
    signs = task["kind"][1::2]
    for number, (sign, other) in enumerate(zip(signs, others, strict=False)):
        messages += called(number, f"{value}{sign}{other}")
        value = messages[-1]["content"]
    return {"messages": [*messages, {"role": "assistant", "content": f"ANSWER({value})"}], "tools": [TOOL]}


def guessed(task: dict, rng: random.Random) -> int:
    """One digit off."""
    return int(task["answer"]) + rng.choice([-10, -1, 1, 10])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--count", type=int, default=448)
    parser.add_argument("--habit", type=float, default=0.65)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    tasks = [json.loads(line) for line in (arguments.folder / "train.jsonl").read_text().splitlines()]
    demos = [
        demonstration(task, guessed(task, rng) if rng.random() < arguments.habit else None)
        for task in tasks[: arguments.count]
    ]
    (arguments.folder / "demos.jsonl").write_text("".join(json.dumps(demo) + "\n" for demo in demos))


if __name__ == "__main__":
    main()
