"""Credit equals verl's own advantage functions, with their epsilon and degrees of freedom, on random groups."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo import core_algos

from leyden_trainer.credit import Advantage, CallView, RolloutView, assign, credit_method
from leyden_trainer.credit.compare import EPSILON
from leyden_trainer.credit.returns import call_rewards

Group = list[RolloutView]
numbers = st.floats(-4, 4).map(lambda value: round(value, 2))


@st.composite
def rollouts(draw: st.DrawFn, name: str) -> RolloutView:
    calls: list[CallView] = []
    for place in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 4))
        calls.append(
            CallView(
                f"{name}-{place}",
                draw(st.sampled_from(["x", "y"])),
                reward=draw(numbers),
                num_tokens=size,
                values=tuple(draw(st.lists(numbers, min_size=size, max_size=size))),
            )
        )
    return RolloutView(name, draw(numbers), tuple(calls))


@st.composite
def steps(draw: st.DrawFn) -> list[Group]:
    """One to three groups of at least two: verl leaves a group of one its raw reward, we give it 0."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    return [[draw(rollouts(f"g{g}r{r}")) for r in range(size)] for g, size in enumerate(sizes)]


def ours(name: str, groups: Sequence[Group], **options: object) -> dict[str, Advantage]:
    return assign(credit_method(name, options=options), groups)[0]  # type: ignore[arg-type]


def padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """float64, shape (B, T)."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (length - len(row))] for row in rows], dtype=torch.float64)


def rows(groups: Sequence[Group]) -> tuple[Tensor, Tensor, np.ndarray, list[RolloutView]]:
    """A row per rollout, as verl has it: (rewards, mask, index, rollouts). A call's reward is at its last token."""
    members = [(str(g), rollout) for g, group in enumerate(groups) for rollout in group]
    rewards = [
        [0.0] * (call.num_tokens - 1) + [reward]
        for _, rollout in members
        for call, reward in zip(rollout.calls, call_rewards(rollout), strict=True)
    ]
    flat = iter(rewards)
    per_rollout = [[value for _ in rollout.calls for value in next(flat)] for _, rollout in members]
    mask = padded([[1.0] * len(row) for row in per_rollout])
    return padded(per_rollout), mask, np.array([g for g, _ in members]), [rollout for _, rollout in members]


def assume_spread(advantages: Tensor) -> None:
    """verl's mean adds 1e-8 to the count; divided by a deviation near 0, that is more than the tolerance."""
    assume(float(advantages.std()) > 0.05)


def assert_equal(mine: dict[str, Advantage], theirs: Tensor, members: Sequence[RolloutView]) -> None:
    for row, rollout in zip(theirs, members, strict=True):
        place = 0
        for call in rollout.calls:
            a = mine[call.id]
            got = torch.tensor(a.tokens or (a.value,) * call.num_tokens, dtype=torch.float64)
            torch.testing.assert_close(got, row[place : place + call.num_tokens], rtol=0, atol=1e-6)
            place += call.num_tokens


@settings(deadline=None)
@given(steps(), st.sampled_from(["broadcast", "grpo", "dr_grpo"]))
def test_grpo_and_dr_grpo_equal_verls(groups: list[Group], name: str) -> None:
    rewards, mask, index, members = rows(groups)
    theirs, _ = core_algos.compute_grpo_outcome_advantage(
        rewards, mask, index, epsilon=EPSILON, norm_adv_by_std_in_grpo=name != "dr_grpo"
    )
    assert_equal(ours(name, groups), theirs, members)


@settings(deadline=None)
@given(steps())
def test_rloo_equals_verls(groups: list[Group]) -> None:
    rewards, mask, index, members = rows(groups)
    theirs, _ = core_algos.compute_rloo_outcome_advantage(rewards, mask, index)
    assert_equal(ours("rloo", groups), theirs, members)


@settings(deadline=None)
@given(steps())
def test_reinforce_plus_plus_equals_verls_with_a_baseline(groups: list[Group]) -> None:
    rewards, mask, index, members = rows(groups)
    theirs, _ = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, mask, index)
    assume_spread(theirs[mask.bool()])
    assert_equal(ours("reinforce_plus_plus", groups), theirs, members)


@settings(deadline=None)
@given(steps())
def test_dr_mas_equals_verls_grpo_with_a_row_per_call_and_agents_as_groups(groups: list[Group]) -> None:
    calls = [(g, r, c) for g, group in enumerate(groups) for r in group for c in r.calls]
    counts = [sum(1 for h, _, other in calls if (h, other.agent) == (g, c.agent)) for g, _, c in calls]
    rewards = padded([[sum(call_rewards(r))] for _, r, _ in calls])
    index = np.array([f"{g} {c.agent}" for g, _, c in calls])
    theirs, _ = core_algos.compute_grpo_outcome_advantage(rewards, torch.ones_like(rewards), index, epsilon=EPSILON)
    mine = ours("dr_mas", groups)
    for (_, _, call), value, count in zip(calls, theirs[:, 0].tolist(), counts, strict=True):
        assert mine[call.id].value == pytest.approx(value if count > 1 else 0.0, abs=1e-6)


@settings(deadline=None)
@given(steps(), st.floats(0, 1))
def test_return_to_go_has_verls_discounted_returns(groups: list[Group], gamma: float) -> None:
    (group,) = groups[:1]
    short = [RolloutView(r.id, r.reward, tuple(CallView(c.id, c.agent, c.reward) for c in r.calls)) for r in group]
    rewards, mask, _, members = rows([short])
    assume(mask.sum() > 1)
    config = type("Config", (), {"gamma": gamma})()
    _, returns = core_algos.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config)
    flat = returns[mask.bool()]
    theirs = torch.zeros_like(returns)
    theirs[mask.bool()] = (flat - flat.mean()) / (flat.std() + EPSILON)
    assert_equal(ours("return_to_go", [short], gamma=gamma), theirs, members)


@settings(deadline=None)
@given(steps(), st.floats(0, 1), st.floats(0, 1))
def test_ppo_equals_verls_gae_and_whitening(groups: list[Group], gamma: float, lam: float) -> None:
    rewards, mask, _, members = rows(groups)
    assume(mask.sum() > 1)
    values = padded([[v for call in r.calls for v in call.values or ()] for r in members])
    theirs, returns = core_algos.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    assume_spread((returns - values)[mask.bool()])
    mine = ours("ppo", groups, gamma=gamma, lam=lam)
    assert_equal(mine, theirs, members)
    targets = {k: Advantage(0.0, "", tokens=a.returns) for k, a in mine.items()}
    assert_equal(targets, returns, members)


@settings(deadline=None)
@given(steps(), st.floats(0, 1), st.floats(0, 1))
def test_turn_ppo_equals_verls_gae_with_calls_as_tokens(groups: list[Group], gamma: float, lam: float) -> None:
    short = [
        [
            RolloutView(
                r.id,
                r.reward,
                tuple(CallView(c.id, c.agent, c.reward, values=(c.values or ())[:1]) for c in r.calls),
            )
            for r in group
        ]
        for group in groups
    ]
    rewards, mask, _, members = rows(short)
    assume(mask.sum() > 1)
    values = padded([[(c.values or ())[0] for c in r.calls] for r in members])
    theirs, returns = core_algos.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    assume_spread((returns - values)[mask.bool()])
    assert_equal(ours("turn_ppo", short, gamma=gamma, lam=lam), theirs, members)
