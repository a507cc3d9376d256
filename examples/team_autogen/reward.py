"""The reward: True if the last ANSWER(number) that the solver wrote is right."""

import re


def score(task: dict, result: str) -> bool:
    answers = re.findall(r"ANSWER\((-?\d+)\)", result)
    return bool(answers) and int(answers[-1]) == task["answer"]
