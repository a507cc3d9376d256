"""The reward: nine tenths of the answer's F1 and a tenth for the agreed form. F1 and exact match are MuSiQue's.

Both compare with the answer and its aliases, without case, punctuation and articles, and take the best.
"""

import re
import string
from collections import Counter

F1_WEIGHT, FORM_WEIGHT = 0.9, 0.1


def score(task: dict, result: str) -> float:
    said = answer(result)
    return F1_WEIGHT * f1(task, result) + FORM_WEIGHT * (said is not None)


def f1(task: dict, result: str) -> float:
    """The share of common words, as the harmonic mean of precision and recall."""
    return max(overlap(right, spoken(result)) for right in rights(task))


def exact_match(task: dict, result: str) -> bool:
    return any(normal(right) == normal(spoken(result)) for right in rights(task))


def rights(task: dict) -> list[str]:
    return [task["answer"], *task.get("aliases", ())]


def answer(result: str) -> str | None:
    """What stands in ANSWER(...), if that is all that was said."""
    said = re.fullmatch(r"ANSWER\((.+)\)", result.strip())
    return said and said[1]


def spoken(result: str) -> str:
    said = answer(result)
    return result if said is None else said


def normal(text: str) -> str:
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def overlap(right: str, said: str) -> float:
    wanted, got = normal(right).split(), normal(said).split()
    if not wanted or not got:
        return float(wanted == got)
    common = sum((Counter(wanted) & Counter(got)).values())
    return 2 * common / (len(wanted) + len(got))
