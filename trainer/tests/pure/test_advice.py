"""The warnings of a step: when they come, with which numbers, and that each says what to do."""

import pytest

from leyden.types import Failure, Reward, Rollout
from leyden_trainer.advice import Advisor, notes
from leyden_trainer.config import TrainerConfig
from leyden_trainer.experience import Batch, Member
from leyden_trainer.judge import JudgeCost
from leyden_trainer.summary import StepRecord

GOOD = StepRecord(
    step=1,
    reward=0.5,
    success=0.5,
    reward_error=0.1,
    staleness=0.0,
    entropy=0.4,
    kl=0.0,
    reference_kl=0.0,
    clip_fraction=0.02,
    mismatch=1e-6,
    importance_mean=None,
    importance_capped=None,
    grad_norm=1.0,
    loss=0.0,
    value_loss=0.0,
    explained_variance=None,
    tokens=100,
    rollouts=8,
    failed=0,
    incomplete=0,
    silent_groups=0,
    replaced_groups=0,
    replaced_silent_groups=0,
    judge_tokens=0,
    merge_rate=1.0,
    seconds=1.0,
    seconds_rollouts=0.5,
    seconds_update=0.5,
)


def member(name: str, reward: float, *, failure: str = "", incomplete: str = "") -> Member:
    status = "failed" if failure else "incomplete" if incomplete else "succeeded"
    told = Failure(kind="agent_error", message=failure) if failure else None
    rollout = Rollout(id=name, status=status, failure=told)
    return Member(rollout, (), (Reward(rollout_id=name, value=reward),), (), (incomplete,) if incomplete else ())


def batch(*rewards: tuple[float, float], more: tuple[Member, ...] = ()) -> Batch:
    """Groups of two with these rewards; `more` are members of no group."""
    groups = tuple(
        tuple(member(f"g{number}-r{place}", value) for place, value in enumerate(pair))
        for number, pair in enumerate(rewards)
    )
    silent = sum(len(set(pair)) == 1 for pair in rewards)
    return Batch(groups, tuple(one for group in groups for one in group) + more, 0, silent)


def warnings(record: StepRecord, batch: Batch, **trainer: object) -> list[str]:
    return Advisor(TrainerConfig.model_validate(trainer)).warnings(record.metrics, batch)


def changed(**values: float) -> StepRecord:
    return StepRecord(**{**vars(GOOD), **values})


def test_a_good_step_has_no_warning() -> None:
    assert warnings(GOOD, batch((0, 1), (0, 1), (1, 1))) == []


def test_most_groups_without_a_signal_are_counted_with_the_rewards_that_they_got() -> None:
    (told,) = warnings(GOOD, batch((0, 1), (0, 0), (0, 0), (1, 1)))
    assert told == (
        "no signal in 3 of 4 groups: all rollouts of a task got the same reward (2 x 0, 1 x 1), so little was learnt; "
        "raise sampling.temperature, choose tasks that sometimes succeed, or set trainer.dynamic_sampling"
    )


def test_no_signal_at_all_says_that_nothing_was_learnt_and_does_not_advise_what_is_on_already() -> None:
    (told,) = warnings(GOOD, batch((0, 0), (0, 0)), dynamic_sampling=True)
    assert "no signal in 2 of 2 groups" in told
    assert "nothing was learnt" in told
    assert "dynamic_sampling" not in told


def test_incomplete_rollouts_come_with_their_share_the_reasons_and_one_to_look_at() -> None:
    lost = (member("x1", 0, incomplete="no tokens"), member("x2", 0, incomplete="no tokens"))
    (told,) = warnings(GOOD, batch((0, 1), (0, 1), (0, 1), more=lost))
    assert told == (
        "25% of rollouts, 2 of 8, are incomplete and not trained on (training stops above 25%, "
        "trainer.max_incomplete): 2 x no tokens; look at `leyden show x1`"
    )
    (far,) = warnings(GOOD, batch((0, 1), (0, 1), (0, 1), more=lost), max_incomplete=0.9)
    assert "training stops" not in far


def test_failures_of_half_the_rollouts_come_with_the_commonest_reason() -> None:
    failed = tuple(member(f"f{number}", 0, failure="KeyError: 'answer'") for number in range(4))
    (told,) = warnings(GOOD, batch((0, 1), (0, 1), more=failed))
    assert told.startswith("4 of 8 rollouts failed, and got reward.on_failure: 4 x agent_error: KeyError: 'answer'")
    assert warnings(GOOD, batch((0, 1), (0, 1), more=failed[:3])) == []


@pytest.mark.parametrize(("mismatch", "near"), [(4.9e-4, False), (5.1e-4, True)])
def test_a_mismatch_over_half_its_limit_is_told_before_training_stops(mismatch: float, near: bool) -> None:
    told = warnings(changed(mismatch=mismatch), batch((0, 1)), max_mismatch=1e-3)
    assert len(told) == near
    assert all('loss.old_logprobs = "trainer"' in line for line in told)


def test_entropy_that_collapses_is_told_once() -> None:
    advisor, good = Advisor(TrainerConfig()), batch((0, 1))
    assert advisor.warnings(changed(entropy=0.5).metrics, good) == []
    assert advisor.warnings(changed(entropy=0.0, tokens=0).metrics, good) == []  # nothing was trained
    assert advisor.warnings(changed(entropy=0.06).metrics, good) == []
    (told,) = advisor.warnings(changed(entropy=0.04).metrics, good)
    assert told.startswith("entropy is down to 0.040 from 0.500")
    assert advisor.warnings(changed(entropy=0.03).metrics, good) == []


def test_clipping_of_many_tokens_says_that_steps_are_too_large() -> None:
    (told,) = warnings(changed(clip_fraction=0.41), batch((0, 1)))
    assert told.startswith("41% of tokens were clipped: the steps are too large; lower optimizer.learning_rate")


def test_a_figure_that_a_backend_lacks_is_not_judged() -> None:
    assert Advisor(TrainerConfig()).warnings({"reward": 0.5, "tokens": 9.0}, batch((0, 1))) == []


def test_notes_say_what_became_of_rollouts_and_groups() -> None:
    some = (member("f", 0, failure="KeyError"),)
    noted = Batch((), some, replaced=1, replaced_silent=2, judge=JudgeCost(1, 4, 10, 3))
    assert notes(noted) == [
        "judge: 10 + 3 tokens in 1 requests, 4 answers from the cache",
        "2 groups were replaced: their rollouts all did equally well",
        "1 of 1 rollouts failed: their reward is reward.on_failure",
        "1 groups were replaced: fewer than two of their rollouts were complete",
    ]
    assert notes(batch((0, 1))) == []
