"""Truncated importance weights, and how a step's rows are dealt to mini-batches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.errors import BadInput
from leyden_trainer.importance import ImportanceStats, mean_mismatch, mismatch, reweighted
from leyden_trainer.rows import TrainingRow, minibatches


def row(rollout_id: str, logprobs: list[float], advantage: float = 1.0) -> TrainingRow:
    """One token of context, then as many trained tokens."""
    trained = len(logprobs)
    return TrainingRow(
        rollout_id=rollout_id,
        token_ids=tuple(range(trained + 1)),
        mask=(False, *[True] * trained),
        logprobs=(0.0, *logprobs),
        advantages=(0.0, *[advantage] * trained),
        weights=(0.0, *[0.1] * trained),
    )


def test_an_advantage_is_weighed_by_trainer_over_sampler_up_to_the_cap() -> None:
    # trainer / sampler: 1.5, exp(3) cut to 2, and 0.5
    sampled = [row("a", [-1.0, -4.0], 2.0), row("b", [-1.0], -1.0)]
    ours = [[9.9, -1.0 + math.log(1.5), -1.0], [9.9, -1.0 + math.log(0.5)]]
    (a, b), stats = reweighted(sampled, ours, cap=2.0)
    assert a.advantages == pytest.approx((0.0, 3.0, 4.0))
    assert b.advantages == pytest.approx((0.0, -0.5))
    assert a.logprobs == pytest.approx((0.0, -1.0 + math.log(1.5), -1.0))
    assert (a.weights, a.mask, a.token_ids) == (sampled[0].weights, sampled[0].mask, sampled[0].token_ids)
    assert stats == ImportanceStats(pytest.approx((1.5 + 2.0 + 0.5) / 3), pytest.approx(1 / 3))


def test_without_a_cap_only_the_log_probabilities_change() -> None:
    (changed,), stats = reweighted([row("a", [-1.0])], [[0.0, -3.0]], cap=None)
    assert (changed.logprobs, changed.advantages) == ((0.0, -3.0), (0.0, 1.0))
    assert stats == ImportanceStats(1.0, 0.0)


def test_a_ratio_beyond_the_range_of_floats_is_cut_like_any_other() -> None:
    (changed,), stats = reweighted([row("a", [-5000.0])], [[0.0, -1.0]], cap=2.0)
    assert changed.advantages == (0.0, 2.0)
    assert stats.capped == 1.0


def test_log_probabilities_of_another_length_are_refused() -> None:
    with pytest.raises(BadInput, match="rollout a: 1 log probabilities for a row of 3 tokens"):
        reweighted([row("a", [-1.0, -1.0])], [[-1.0]], cap=2.0)


def test_the_mismatch_is_the_worst_trained_token_and_nan_is_the_worst_of_all() -> None:
    rows = [row("a", [-1.0]), row("b", [-2.0])]
    assert mismatch(rows, [[5.0, -1.1], [5.0, -1.5]]) == (pytest.approx(0.5), "b")
    assert mismatch(rows, [[0.0, math.nan], [0.0, -1.5]]) == (math.inf, "a")


def test_the_mean_mismatch_is_over_trained_tokens() -> None:
    assert mean_mismatch([row("a", [-1.0]), row("b", [-2.0])], [[5.0, -1.1], [5.0, -1.5]]) == pytest.approx(0.3)
    assert mean_mismatch([], []) == 0.0


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0)), min_size=1, max_size=9), st.floats(0.1, 5))
def test_weights_never_pass_the_cap_and_are_exact_below_it(tokens: list[tuple[float, float]], cap: float) -> None:
    sampled, ours = zip(*tokens, strict=True)
    (changed,), stats = reweighted([row("a", list(sampled))], [[0.0, *ours]], cap=cap)
    expected = [min(cap, math.exp(b - a)) for a, b in tokens]
    assert list(changed.advantages[1:]) == pytest.approx(expected)
    assert stats.mean == pytest.approx(sum(expected) / len(expected))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 3))
def test_minibatches_keep_rollouts_whole_even_and_independent_of_cutting(
    owners: list[int], count: int, seed: int
) -> None:
    rows = [row(f"r{owner}", [-float(n)]) for n, owner in enumerate(owners)]
    parts = minibatches(rows, count, str(seed))
    assert sorted(map(id, (row for part in parts for row in part))) == sorted(map(id, rows))
    of_part = [{row.rollout_id for row in part} for part in parts]
    assert len(parts) == min(count, len(set(owners)))
    assert sum(map(len, of_part)) == len(set(owners))
    assert max(map(len, of_part)) - min(map(len, of_part)) <= 1
    cut = [piece for whole in rows for piece in (whole, whole)]
    assert [{row.rollout_id for row in part} for part in minibatches(cut, count, str(seed))] == of_part
