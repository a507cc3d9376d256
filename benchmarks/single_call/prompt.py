"""The single-call form of the calculator's task: what the model is told, and what is right."""

import re

__all__ = ["is_right", "messages"]

SYSTEM = "Solve with the tool. Reply only CALC(expression)."
EXAMPLE = [
    {"role": "user", "content": "Joe has 40 hats and buys 15 hats. How many hats?"},
    {"role": "assistant", "content": "CALC(40+15)"},
]


def messages(question: str) -> list[dict[str, str]]:
    """The conversation that asks for one answer."""
    return [{"role": "system", "content": SYSTEM}, *EXAMPLE, {"role": "user", "content": question}]


def is_right(said: str, answer: int) -> bool:
    """Whether the expression that was asked for has the answer's value."""
    form = re.fullmatch(r"CALC\((\d+) *([-+*x]) *(\d+)\)", said.strip())
    if form is None:
        return False
    left, sign, right = int(form[1]), form[2], int(form[3])
    return answer == {"+": left + right, "-": left - right, "*": left * right, "x": left * right}[sign]
