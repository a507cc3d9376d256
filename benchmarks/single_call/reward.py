"""The reward."""

from prompt import is_right


def score(task: dict, result: str) -> bool:
    """True if the expression is right."""
    return is_right(result, task["answer"])
