"""The reward: True if the last words are the right number in the agreed form."""

import math
import re

FIVE_DIGITS = 1e-5
SIX_DECIMALS = 5e-7
"""As many as the calculator gives."""


def score(task: dict, result: str) -> bool:
    said = re.search(r"ANSWER\(([^()]+)\)$", result.strip())
    return said is not None and same(said[1], str(task["answer"]))


def same(said: str, right: str) -> bool:
    """Whether both are one number, whatever its spelling, or the same words (the letter of a choice).

    A fraction may be rounded as the calculator rounds it, or to five digits.
    """
    try:
        number, wanted = (float(text.replace(",", "")) for text in (said, right))
    except ValueError:
        return said.strip().lower() == right.strip().lower()
    if wanted.is_integer():
        return number == wanted
    return math.isclose(number, wanted, rel_tol=FIVE_DIGITS, abs_tol=SIX_DECIMALS)
