import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden import continuity
from leyden.types import Attempt, Call, Choice
from leyden_trainer.transitions import IncompleteRollout, Transition, merge_rate, transitions


def call(
    call_id: str, prompt: tuple[int, ...], *answers: tuple[int, ...], at: float | None = None, **attempt: object
) -> Call:
    choices = tuple(Choice(message={}, token_ids=a, logprobs=tuple(-float(t) / 8 for t in a)) for a in answers)
    fields = {"number": 0, "status": "ok", "started_at": 0.0, "latency_ms": 0.0, "version": 4, **attempt}
    made = Attempt(prompt_token_ids=prompt, choices=choices, **fields)
    return Call(id=call_id, rollout_id="r", started_at=float(ord(call_id[-1])) if at is None else at, attempts=(made,))


def rows(*calls: Call, max_tokens: int | None = None) -> list[Transition]:
    return transitions("r", calls, max_tokens=max_tokens)


def test_a_turn_that_continues_its_conversation_continues_its_row() -> None:
    (row,) = rows(call("a", (1, 2), (3, 4)), call("b", (1, 2, 3, 4, 5), (6,)))
    assert row.token_ids == (1, 2, 3, 4, 5, 6)
    assert row.mask == (False, False, True, True, False, True)
    assert row.logprobs == (0.0, 0.0, -3 / 8, -4 / 8, 0.0, -6 / 8)
    assert row.versions == (None, None, 4, 4, None, 4)
    assert [(span.call_id, span.start, span.stop) for span in row.spans] == [("a", 2, 4), ("b", 5, 6)]


def test_two_interleaved_agents_give_two_rows() -> None:
    a1, b1 = call("a", (1,), (2,)), call("b", (10,), (11,))
    a2, b2 = call("c", (1, 2, 3), (4,)), call("d", (10, 11, 12), (13,))
    assert [row.token_ids for row in rows(a1, b1, a2, b2)] == [(1, 2, 3, 4), (10, 11, 12, 13)]


def test_a_history_that_was_rendered_differently_forks() -> None:
    first, second = rows(call("a", (1, 2), (3, 4)), call("b", (1, 2, 3, 9, 5), (6,)))
    assert first.token_ids == (1, 2, 3, 4)
    assert second.token_ids == (1, 2, 3, 9, 5, 6)
    assert second.mask == (False,) * 5 + (True,)


def test_several_choices_are_rows_and_a_sampled_token_is_trained_once() -> None:
    conversation = (call("a", (1,), (2,)), call("b", (1, 2, 3), (4,), (5,)), call("c", (1, 2, 3, 5, 6), (7,)))
    first, second = rows(*conversation)
    assert (first.token_ids, first.mask) == ((1, 2, 3, 4), (False, True, False, True))
    assert (second.token_ids, second.mask) == ((1, 2, 3, 5, 6, 7), (False, False, False, True, False, True))


def test_identical_prompts_are_all_kept() -> None:
    assert [row.token_ids for row in rows(call("a", (1,), (2,)), call("b", (1,), (2,)))] == [(1, 2), (1, 2)]


def test_an_answer_that_the_agent_never_saw_is_left_out() -> None:
    seen = call("a", (1,), (2,), number=1).attempts[0]
    unseen = call("a", (1,), (9,), status="cancelled").attempts[0]
    retried = Call(id="a", rollout_id="r", attempts=(unseen, seen))
    failed = call("b", (1, 2), (3,), status="error")
    judge = call("c", (5,), (6,)).model_copy(update={"context": True})
    assert [row.token_ids for row in rows(retried, failed, judge)] == [(1, 2)]


def test_the_order_of_arrival_does_not_matter() -> None:
    calls = [call("a", (1,), (2,)), call("b", (1, 2, 3), (4,)), call("c", (9,), (8,))]
    assert rows(*calls) == rows(*reversed(calls))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (call("a", (1,), (2,), version=None), "call a has no policy version"),
        (call("a", (1,), ()), "call a, choice 0: it has no token ids"),
        (call("a", (1,)), "call a was answered without a choice"),
    ],
)
def test_what_is_missing_makes_the_rollout_incomplete(made: Call, reason: str) -> None:
    with pytest.raises(IncompleteRollout, match=f"rollout r is incomplete: {reason}"):
        rows(made)


def test_a_row_that_is_too_long_is_refused_and_never_cut() -> None:
    with pytest.raises(IncompleteRollout, match="a row of 4 tokens is over the limit of 3"):
        rows(call("a", (1, 2), (3, 4)), max_tokens=3)


def test_the_merge_rate_counts_calls_after_the_first() -> None:
    merged = [call("a", (1,), (2,)), call("b", (1, 2, 3), (4,)), call("c", (9,), (8,))]
    assert merge_rate([merged]) == 0.5
    assert merge_rate([merged[:1]]) == 1.0


def test_the_merge_rate_counts_no_call_whose_row_another_took() -> None:
    """b and c both continue a; the row goes on with b, so c begins one of its own."""
    branches = [call("a", (1,), (2,)), call("b", (1, 2, 3), (4,)), call("c", (1, 2, 5), (6,))]
    assert len(rows(*branches)) == 2
    assert merge_rate([branches]) == 0.5


def test_a_call_without_all_its_tokens_continues_nothing() -> None:
    assert merge_rate([[call("a", (1,), (2,)), call("b", (1, 2, 3), ())]]) == 0.0


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)


MADE = st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=2)), min_size=1, max_size=6)


@given(MADE)
def test_every_sampled_token_is_trained_exactly_once(made: list[tuple[tuple[int, ...], list[tuple[int, ...]]]]) -> None:
    calls = [call(f"{number}", prompt, *answers, at=number) for number, (prompt, answers) in enumerate(made)]
    built = rows(*calls)
    sampled = sum(len(answer) for _, answers in made for answer in answers)
    assert sum(sum(row.mask) for row in built) == sampled
    spans = sorted((span.call_id, span.choice) for row in built for span in row.spans)
    assert spans == sorted((f"{n}", c) for n, (_, answers) in enumerate(made) for c in range(len(answers)))
    for row in built:
        for span in row.spans:
            assert row.token_ids[span.start : span.stop] == made[int(span.call_id)][1][span.choice]
            assert row.token_ids[: span.start] == made[int(span.call_id)][0]


@given(MADE)
def test_the_rows_that_are_shown_are_those_that_are_trained(
    made: list[tuple[tuple[int, ...], list[tuple[int, ...]]]],
) -> None:
    calls = [call(f"{number}", prompt, *answers, at=number) for number, (prompt, answers) in enumerate(made)]
    shown = [(row.tokens, row.calls) for row in continuity.rows(calls)]
    trained = [(row.token_ids, [(span.call_id, span.choice) for span in row.spans]) for row in rows(*calls)]
    assert shown == trained
