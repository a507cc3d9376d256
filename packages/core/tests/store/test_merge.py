"""Partial records of one call become one, in whatever order and however often they come."""

from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.errors import Conflict
from leyden.merge import merge
from leyden.types import Attempt, Call, Request, Structure, ToolUse


def attempt(number: int, when: float, name: str, **fields: object) -> Attempt:
    return Attempt.model_validate(
        {"number": number, "id": name, "status": "error", "started_at": when, "latency_ms": 1.0, **fields}
    )


REQUEST = Request(messages=({"role": "user", "content": "hi"},), asked={"model": "m"}, sent={"top_p": 1.0})
STRUCTURE = Structure(framework="tests", agent=("a", "b"), node="n", step=2, outcome="returned")
TOOL = ToolUse(id="t", name="times", arguments={"a": 6}, result=42, started_at=1.0)


@st.composite
def parts(draw: st.DrawFn) -> list[Call]:
    """Records that agree where they overlap, with attempts of a client that does or does not count its retries."""
    counted = sorted(draw(st.lists(st.integers(0, 4), max_size=4)))
    attempts = [attempt(number, float(place), f"http {place}") for place, number in enumerate(counted)]
    some = []
    for started_at in draw(st.lists(st.floats(0, 100), min_size=1, max_size=4)):
        structure = {name: value for name, value in STRUCTURE if draw(st.booleans())}
        tool = {name: value for name, value in TOOL if name == "id" or draw(st.booleans())}
        fields = {name: value for name, value in REQUEST if draw(st.booleans())}
        record = Call(
            id="c",
            rollout_id="r",
            started_at=started_at,
            captured_by=draw(st.sampled_from([(), ("gateway",), ("adapter", "gateway")])),
            request=draw(st.sampled_from([None, Request.model_validate(fields)])),
            attempts=tuple(one for one in attempts if draw(st.booleans())),
            structure=draw(st.sampled_from([None, Structure.model_validate(structure)])),
            tools=draw(st.sampled_from([(), (ToolUse.model_validate(tool),)])),
            context=draw(st.booleans()),
        )
        some.append(merge(record, record))
    return some


@given(parts())
def test_the_order_of_the_records_does_not_matter(some: list[Call]) -> None:
    assert len({reduce(merge, order).model_dump_json() for order in permutations(some)}) == 1


@given(parts())
def test_how_the_records_are_grouped_does_not_matter(some: list[Call]) -> None:
    whole = reduce(merge, some)
    assert all(merge(reduce(merge, some[:cut]), reduce(merge, some[cut:])) == whole for cut in range(1, len(some)))


@given(parts())
def test_a_record_that_comes_again_changes_nothing(some: list[Call]) -> None:
    whole = reduce(merge, some)
    assert merge(whole, whole) == whole
    assert all(merge(whole, part) == whole for part in some)


def test_attempts_that_a_client_did_not_count_are_numbered_in_the_order_of_their_start() -> None:
    later = Call(id="c", rollout_id="r", attempts=(attempt(0, 2.0, "later"),))
    first = Call(id="c", rollout_id="r", attempts=(attempt(0, 1.0, "first"), attempt(5, 9.0, "last")))
    numbers = [(one.number, one.id) for one in merge(later, first).attempts]
    assert numbers == [(0, "first"), (1, "later"), (5, "last")]


def test_an_attempt_that_was_written_twice_under_two_ids_is_one_attempt() -> None:
    calls = [Call(id="c", rollout_id="r", started_at=1.0, attempts=(attempt(0, 2.0, name),)) for name in ("b", "a")]
    assert merge(*calls) == merge(*reversed(calls)) == calls[1]


@pytest.mark.parametrize(
    "other",
    [
        {"rollout_id": "another"},
        {"attempt": 2},
        {"request": Request(asked={"model": "another"})},
        {"structure": Structure(node="another")},
        {"tools": (ToolUse(id="t", result=43),)},
        {"attempts": (attempt(0, 1.0, "http", status="ok"),)},
    ],
)
def test_another_value_for_a_set_field_is_a_conflict_in_either_order(other: dict[str, object]) -> None:
    one = Call(
        id="c",
        rollout_id="r",
        request=REQUEST,
        structure=STRUCTURE,
        tools=(TOOL,),
        attempts=(attempt(0, 1.0, "http"),),
    )
    another = Call.model_validate({"id": "c", "rollout_id": "r", **other})
    for pair in ((one, another), (another, one)):
        with pytest.raises(Conflict, match="c"):
            merge(*pair)
