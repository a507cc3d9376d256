"""pass@k, its interval and the paired tests, against numbers by hand and counting all ways."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.errors import BadInput
from leyden_trainer.evaluation import Evaluation, compare, pass_at_k, wilson


def evaluation(*rewards: tuple[float | None, ...], name: str = "policy") -> Evaluation:
    return Evaluation(name, rewards, success_at=1.0)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k_tries_that_hold_a_success(tries: int, data: st.DataObject) -> None:
    successes, k = data.draw(st.integers(0, tries)), data.draw(st.integers(1, tries))
    chosen = list(itertools.combinations([True] * successes + [False] * (tries - successes), k))
    assert pass_at_k(tries, successes, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_more_tries_than_there_are_is_refused() -> None:
    with pytest.raises(BadInput, match="pass@3 needs k from 1 to the number of tries, 2"):
        pass_at_k(2, 1, 3)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # 8 of 10: (0.8 + 3.8415/20 ± 1.96 √(0.016 + 3.8415/400)) / (1 + 0.38415) = (0.99207 ± 0.31363) / 1.38415
    interval = wilson(0.8, 10)
    assert (interval.low, interval.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(1.0, 10).high == 1.0
    assert wilson(1.0, 10).low == pytest.approx(0.7225, abs=1e-4)


def test_an_incomplete_rollout_counts_as_nothing_and_is_counted() -> None:
    seen = evaluation((1.0, None), (1.0, 1.0))
    assert (seen.mean_reward, seen.incomplete, seen.successes) == (0.75, 1, [1, 2])
    assert seen.passing(1)[0] == 0.75
    assert seen.passing(2)[0] == 1.0


def test_one_try_of_zeros_and_ones_is_tested_by_mcnemar() -> None:
    first = evaluation(*[(0.0,)] * 6, (1.0,), (1.0,))
    second = evaluation(*[(1.0,)] * 6, (0.0,), (1.0,))
    seen = compare(first, second)
    # 6 of 7 that differ are better: 2 (C(7,0) + C(7,1)) / 2^7 = 16/128
    assert (seen.better, seen.worse, seen.test) == (6, 1, "McNemar, exact")
    assert seen.p_value == pytest.approx(0.125)
    assert seen.gain == pytest.approx(5 / 8)


def test_other_differences_are_tested_by_all_flips_of_their_signs() -> None:
    first, second = evaluation((0.0,), (0.0,), (0.0,)), evaluation((0.1,), (0.2,), (0.3,))
    seen = compare(first, second)
    # Of 8 flips, the mean is as far out only with all signs alike: 2/8.
    assert (seen.p_value, seen.test) == (pytest.approx(0.25), "sign flips, exact")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_policy_is_no_better_than_itself(rewards: list[float]) -> None:
    same = evaluation(*[(reward,) for reward in rewards])
    assert compare(same, same).p_value == 1.0


def test_policies_are_compared_on_the_same_tasks_only() -> None:
    with pytest.raises(BadInput, match="first has 1 tasks, second 2"):
        compare(evaluation((1.0,), name="first"), evaluation((1.0,), (1.0,), name="second"))
