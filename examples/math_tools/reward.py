"""The reward: True if the last words are the right number in the agreed form."""

import re


def score(task: dict, result: str) -> bool:
    said = re.fullmatch(r"ANSWER\((.+)\)", result.strip())
    return said is not None and same(said[1], str(task["answer"]))


def same(said: str, right: str) -> bool:
    """Whether both are one number, whatever its spelling, or the same words (the letter of a choice)."""
    try:
        return float(said.replace(",", "")) == float(right.replace(",", ""))
    except ValueError:
        return said.strip().lower() == right.strip().lower()
