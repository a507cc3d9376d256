"""The sampled tokens of an answer, each with its text and the classes that colour it; never tokenized again."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from leyden.types import Choice

__all__ = ["MOST", "Token", "largest_advantage", "shown_tokens", "text_of"]

MOST = 20_000
"""Tokens that a page shows."""


@dataclass(frozen=True)
class Token:
    """One token: text, or its id where no tokenizer is at hand; classes for the three ways to colour it; a title."""

    text: str
    classes: str
    title: str


def shown_tokens(
    choice: Choice, text: Callable[[int], str] | None, *, advantage: float | None, largest: float, most: int = MOST
) -> list[Token]:
    """The tokens of an answer.

    Args:
        choice: the answer; one without tokens has none to show.
        text: what a token id says.
        advantage: that of the call; None if it was not trained on.
        largest: the largest absolute advantage that colours are measured against.
        most: so many tokens at most, the first ones.
    """
    ids, logprobs = choice.token_ids or (), choice.logprobs or ()
    share = advantage / largest if advantage is not None and largest else 0.0
    level = math.ceil(abs(share) * 4 - 1e-9)
    common = f"{'n' if share < 0 else 'p'}{level} m{int(advantage is not None)}"
    worth = "not trained" if advantage is None else f"advantage {advantage:+.3f}"
    return [
        Token(
            text(token) if text is not None else str(token),
            f"{common} l{_surprise(logprob)}",
            f"token {token}, log probability {logprob:.3f}, {worth}",
        )
        for token, logprob in zip(ids[:most], logprobs[:most], strict=True)
    ]


def _surprise(logprob: float) -> int:
    """0 for a token that was almost certain (probability above 0.9) to 5 for one below 0.01."""
    limits = (0.9, 0.7, 0.4, 0.1, 0.01)
    return sum(logprob < math.log(limit) for limit in limits)


def text_of(tokenizer: str | None) -> Callable[[int], str] | None:
    """What a token id says, by a tokenizer.json; None if there is none, or no library that reads it."""
    if tokenizer is None or not Path(tokenizer).is_file():
        return None
    try:
        importlib.import_module("tokenizers")
    except ImportError:
        return None
    return _texts(tokenizer)


@lru_cache(maxsize=8)
def _texts(path: str) -> Callable[[int], str]:
    library: Any = importlib.import_module("tokenizers")
    loaded = library.Tokenizer.from_file(path)

    @lru_cache(maxsize=50_000)
    def text(token: int) -> str:
        return str(loaded.decode([token], skip_special_tokens=False))

    return text


def largest_advantage(advantages: Sequence[float]) -> float:
    """What colours are measured against."""
    return max((abs(value) for value in advantages), default=0.0)
