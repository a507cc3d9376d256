"""Writes demos.jsonl, the warm start: the solver at work on the first training problems, with a bad habit.

The habit: in `--habit` of them it adds, whatever the problem asks for. So the form is learnt, one sum after the other,
and it is left to RL to find out which sum pays.
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


def demonstration(task: dict, *, adds: bool) -> dict:
    """A whole conversation: a call for each sign of the problem's kind, such as a*b-c."""
    messages = [{"role": "system", "content": SOLVER}, {"role": "user", "content": task["question"]}]
    value, *others = map(str, task["numbers"])
    signs = task["kind"][1::2]
    for number, (sign, other) in enumerate(zip(signs, others, strict=False)):
        messages += called(number, f"{value}{'+' if adds else sign}{other}")
        value = messages[-1]["content"]
    return {"messages": [*messages, {"role": "assistant", "content": f"ANSWER({value})"}], "tools": [TOOL]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--habit", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    tasks = [json.loads(line) for line in (arguments.folder / "train.jsonl").read_text().splitlines()]
    demos = [demonstration(task, adds=rng.random() < arguments.habit) for task in tasks[: arguments.count]]
    (arguments.folder / "demos.jsonl").write_text("".join(json.dumps(demo) + "\n" for demo in demos))


if __name__ == "__main__":
    main()
