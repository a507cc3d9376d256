"""How much is tried, and a JSON value with one of its parts replaced by something extreme."""

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

Mutated = Callable[[list[Any]], st.SearchStrategy[Any]]

EXTREMES: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0, 5e-324, "", "\x00", "\ud800", "\u202e",
    "😀" * 60, "x" * 10_000, "é" * 300, "NaN", "../../etc/passwd", "'; DROP TABLE rollouts; --", [], {}, [[]], {"": ""},
    {"a" * 1000: 1}, {"\ud800": 1}, [None] * 1000, [{}] * 50,
]  # fmt: skip


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of the value are."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@st.composite
def one_changed(draw: st.DrawFn, values: list[Any]) -> Any:
    """One of the values, with one part taken away, or replaced by something extreme."""
    value = copy.deepcopy(draw(st.sampled_from(values)))
    *outer, last = draw(st.sampled_from([place for place in places(value) if place]))
    owner = value
    for key in outer:
        owner = owner[key]
    if isinstance(owner, dict) and draw(st.integers(0, 9)) == 0:
        del owner[last]
        return value
    owner[last] = draw(
        st.sampled_from([*EXTREMES, deep(60), deep(150), deep(400)]) | st.floats() | st.text(max_size=20)
    )
    return value


@pytest.fixture(scope="session")
def fuzz_examples() -> int:
    """Examples for each property: few in the tests, `make fuzz` asks for many."""
    return int(os.environ.get("LEYDEN_FUZZ_EXAMPLES", "2"))


@pytest.fixture(scope="session")
def mutated() -> Mutated:
    """Makes the strategy: one of the values, changed."""
    return one_changed
