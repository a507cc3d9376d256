"""The laws of docs/credit.md, each over random groups: which methods obey it, and under what condition."""

import itertools
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leyden_trainer.credit import METHODS, Advantage, CallValues, CallView, RolloutView, assign, credit_method
from leyden_trainer.transitions import Span, Transition
from leyden_trainer.weights import training_rows

Group = list[RolloutView]

WITHOUT_CRITIC = [name for name, entry in METHODS.items() if not entry.heads]
WITH_CRITIC = [name for name, entry in METHODS.items() if entry.heads]
PLAIN = {"normalize": False, "gamma": 1.0, "lam": 1.0}
UNDISCOUNTED = {name: {"gamma": 1.0} for name in ("return_to_go", "agent_return_to_go", "gigpo")}
RELATIVE = [name for name in WITHOUT_CRITIC if name != "rae"]

numbers = st.floats(-4, 4).map(lambda value: round(value, 2))


@st.composite
def rollouts(draw: st.DrawFn, name: str, call_rewards: bool = True) -> RolloutView:
    """Up to five calls of two agents in three situations, in segments, with values."""
    calls: list[CallView] = []
    for place in range(draw(st.integers(1, 5))):
        size = draw(st.integers(1, 3))
        calls.append(
            CallView(
                id=f"{name}-{place}",
                agent=draw(st.sampled_from(["x", "y"])),
                reward=draw(numbers) if call_rewards else 0.0,
                state=f"{name}-{place}" if place else "start",
                observation=draw(st.sampled_from(["o", "p", "q"])),
                action=draw(st.sampled_from("abc")),
                segment=(calls[-1].segment + draw(st.integers(0, 1))) if calls else 0,
                num_tokens=size,
                values=tuple(draw(st.lists(numbers, min_size=size, max_size=size))),
                high_value=draw(numbers),
            )
        )
    given_to_agents = ((calls[0].agent, draw(numbers)),) if call_rewards and draw(st.booleans()) else ()
    return RolloutView(name, draw(numbers), tuple(calls), given_to_agents)


@st.composite
def groups(draw: st.DrawFn, min_size: int = 2, call_rewards: bool = True) -> Group:
    names = [f"r{n}" for n in range(draw(st.integers(min_size, 5)))]
    return [draw(rollouts(name, call_rewards)) for name in names]


def advantages(name: str, *of: Group, **options: object) -> dict[str, Advantage]:
    return assign(credit_method(name, options=options), of)[0]  # type: ignore[arg-type]


def values(name: str, *of: Group, **options: object) -> dict[str, float]:
    return {call: a.value for call, a in advantages(name, *of, **options).items()}


def returns_to_go(rollout: RolloutView) -> list[float]:
    """What came at each call and after it, undiscounted; the strategy's agents' rewards fall on their last calls."""
    rewards = [call.reward for call in rollout.calls]
    rewards[-1] += rollout.reward
    for agent, value in rollout.agent_rewards:
        rewards[max(n for n, call in enumerate(rollout.calls) if call.agent == agent)] += value
    return [sum(rewards[n:]) for n in range(len(rewards))]


@given(st.lists(numbers, min_size=2, max_size=6))
def test_with_one_call_per_rollout_all_of_them_are_grpo(given_rewards: list[float]) -> None:
    group = [RolloutView(str(n), r, (CallView(str(n), "x"),)) for n, r in enumerate(given_rewards)]
    grpo = values("grpo", group)
    for name in ("broadcast", "dr_mas", "return_to_go", "agent_return_to_go", "mt_grpo", "gigpo"):
        assert values(name, group) == pytest.approx(grpo), name


@given(st.lists(numbers, min_size=2, max_size=6), st.integers(1, 4))
def test_with_one_agent_and_equal_call_counts_dr_mas_is_grpo(given_rewards: list[float], count: int) -> None:
    assume(max(given_rewards) > min(given_rewards))
    group = [
        RolloutView(str(n), r, tuple(CallView(f"{n}-{k}", "x") for k in range(count)))
        for n, r in enumerate(given_rewards)
    ]
    # The sample deviation of n·k numbers that are n numbers k times: degrees of freedom n·k - 1 instead of k·(n - 1)
    size = len(group)
    factor = math.sqrt((size * count - 1) / (count * (size - 1)))
    grpo = values("grpo", group)
    assert values("dr_mas", group) == pytest.approx({k: v * factor for k, v in grpo.items()}, rel=2e-2)


@given(groups())
def test_without_repeated_anchors_gigpo_and_group_regression_are_broadcast(group: Group) -> None:
    apart = [replace(r, calls=tuple(replace(c, observation=c.id) for c in r.calls)) for r in group]
    unseen = [replace(r, calls=tuple(replace(c, observation="") for c in r.calls)) for r in group]
    assert values("gigpo", apart) == values("gigpo", unseen) == pytest.approx(values("broadcast", group))
    assert values("group_regression", apart) == values("group_regression", unseen) == values("broadcast", group)


@given(groups())
def test_where_no_two_rollouts_share_an_action_task_regression_is_broadcast(group: Group) -> None:
    apart = [replace(r, task="t", calls=tuple(replace(c, action=c.id) for c in r.calls)) for r in group]
    assert values("task_regression", apart) == values("broadcast", group)


@given(st.tuples(numbers, numbers, numbers))
def test_task_regression_finds_the_effects_of_decisions_that_add_up(effects: tuple[float, float, float]) -> None:
    assume(any(effects))
    made = list(itertools.product((0, 1), repeat=3))
    returns = [sum(e for e, taken in zip(effects, actions, strict=True) if taken) for actions in made]
    group = [
        RolloutView(
            f"{n}",
            returns[n],
            tuple(CallView(f"{n}-{k}", f"x{k}", observation=f"o{k}", action=str(a)) for k, a in enumerate(actions)),
        )
        for n, actions in enumerate(made)
    ]
    got = values("task_regression", group)
    for n, actions in enumerate(made):
        for k, taken in enumerate(actions):
            # Each is taken by half of the rollouts, so it is half its effect above or below their mean. A ridge of 0.01
            # takes 0.01 / 4.41 off.
            true = effects[k] * (taken - 0.5) / statistics.pstdev(returns)
            assert got[f"{n}-{k}"] == pytest.approx(true, rel=0.003, abs=1e-9)


@given(groups(), st.floats(0, 1), st.floats(0, 1))
def test_with_one_segment_the_low_level_of_hae_is_turn_ppo(group: Group, gamma: float, lam: float) -> None:
    whole = [replace(r, calls=tuple(replace(c, segment=0) for c in r.calls)) for r in group]
    low = {k: a.returns for k, a in advantages("hae", whole, gamma=gamma, lam=lam).items()}
    flat = {k: a.returns for k, a in advantages("turn_ppo", whole, gamma=gamma, lam=lam).items()}
    assert low == flat


@given(groups(), st.floats(0, 1), st.floats(0, 1))
def test_with_one_token_per_call_ppo_is_turn_ppo(group: Group, gamma: float, lam: float) -> None:
    short = [
        replace(r, calls=tuple(replace(c, num_tokens=1, values=(c.values or (0.0,))[:1]) for c in r.calls))
        for r in group
    ]
    options = {"gamma": gamma, "lam": lam}
    assert values("ppo", short, **options) == pytest.approx(values("turn_ppo", short, **options), abs=1e-9)


@given(groups(), st.floats(0, 1), st.floats(0, 1))
def test_with_equal_horizons_multi_level_gae_is_ppo(group: Group, gamma: float, lam: float) -> None:
    levels = {
        f"{name}{level}": v for name, v in (("gamma", gamma), ("lam", lam)) for level in ("", "_call", "_segment")
    }
    assert values("multi_level_gae", group, **levels) == values("ppo", group, gamma=gamma, lam=lam)


@given(groups())
def test_with_lambda_1_a_tokens_advantage_is_its_return_minus_its_value(group: Group) -> None:
    got = advantages("ppo", group, **PLAIN)
    turns = advantages("turn_ppo", group, **PLAIN)
    for rollout in group:
        for call, to_go in zip(rollout.calls, returns_to_go(rollout), strict=True):
            assert call.values is not None
            assert got[call.id].tokens == pytest.approx([to_go - value for value in call.values])
            assert got[call.id].returns == pytest.approx([to_go] * call.num_tokens)
            assert turns[call.id].value == pytest.approx(to_go - call.values[0])


@given(groups())
def test_with_lambda_1_anchor_td_is_the_return_to_go_minus_the_worth_of_the_situation(group: Group) -> None:
    got = values("anchor_td", group, lam=1.0, share=0.0)
    assume(any(values("broadcast", group).values()) and any(abs(value) > 1e-6 for value in got.values()))
    made = {c.id: (c.observation, v) for r in group for c, v in zip(r.calls, returns_to_go(r), strict=True)}
    usual = sum(returns_to_go(r)[0] for r in group) / len(group)
    raw: dict[str, float] = {}
    for call_id, (place, value) in made.items():
        here = [v for other, v in made.values() if other == place]
        raw[call_id] = value - (sum(here) + usual) / (len(here) + 1)
    scale = math.hypot(*values("broadcast", group).values()) / math.hypot(*raw.values())
    assert got == pytest.approx({k: v * scale for k, v in raw.items()}, abs=1e-6)


@given(groups())
def test_with_lambda_1_both_levels_of_hae_telescope_and_nothing_crosses_a_segments_border(group: Group) -> None:
    got = advantages("hae", group, **PLAIN, lam_segment=1.0)
    for rollout in group:
        to_go = returns_to_go(rollout)
        for place, call in enumerate(rollout.calls):
            later = [n for n, c in enumerate(rollout.calls) if c.segment > call.segment]
            high = rollout.calls[later[0]].high_value if later else 0.0
            after = to_go[later[0]] if later else 0.0
            assert high is not None
            # within the segment, then what the high head expects of the rest: not what the rest turned out to be
            assert got[call.id].returns == pytest.approx((to_go[place] - after + high,))
            begins = place == 0 or rollout.calls[place - 1].segment != call.segment
            assert got[call.id].high_return == (pytest.approx(to_go[place]) if begins else None)


@given(groups(), st.sampled_from(RELATIVE), st.sampled_from([-16.0, 8.0, 64.0]))
def test_adding_a_constant_to_all_rewards_changes_no_undiscounted_relative_method(
    group: Group, name: str, constant: float
) -> None:
    assume(name != "reinforce_plus_plus" or len({round(r.reward, 6) for r in group}) > 1)
    options = UNDISCOUNTED.get(name, {})
    moved = [replace(r, reward=r.reward + constant) for r in group]
    assert values(name, moved, **options) == pytest.approx(values(name, group, **options), abs=1e-6)


@given(groups(), groups(), st.sampled_from(sorted(METHODS)))
def test_order_of_arrival_and_names_change_nothing(group: Group, second: Group, name: str) -> None:
    def renamed(some: Group, prefix: str) -> Group:
        return [
            replace(r, id=f"{prefix}{r.id}", calls=tuple(replace(c, id=f"{prefix}{c.id}") for c in r.calls))
            for r in some
        ]

    other = renamed(second, "other ")
    before = values(name, group, other)
    after = values(name, renamed(other, "new ")[::-1], renamed(group, "new ")[::-1])
    assert {k.removeprefix("new "): v for k, v in after.items()} == pytest.approx(before, abs=1e-9)


@given(groups(min_size=1), st.sampled_from(RELATIVE))
def test_a_group_of_one_has_advantage_0(group: Group, name: str) -> None:
    assert set(values(name, group[:1]).values()) == {0.0}


@given(groups(call_rewards=False), st.sampled_from(RELATIVE), numbers)
def test_a_group_of_equals_has_advantage_0_without_a_discount(group: Group, name: str, reward: float) -> None:
    equal = [replace(r, reward=reward) for r in group]
    assert values(name, equal, **UNDISCOUNTED.get(name, {})) == {c.id: 0.0 for r in group for c in r.calls}


@given(groups(), st.sampled_from(sorted(METHODS)))
def test_an_agent_that_is_not_chosen_gets_no_gradient(group: Group, name: str) -> None:
    chosen = assign(credit_method(name, agents=("x",)), [group])[0]
    assert set(chosen) == {c.id for r in group for c in r.calls if c.agent == "x"}
    rows = [
        Transition(
            r.id,
            (1,) * c.num_tokens,
            (True,) * c.num_tokens,
            (-1.0,) * c.num_tokens,
            (0,) * c.num_tokens,
            (Span(c.id, 0, 0, c.num_tokens),),
        )
        for r in group
        for c in r.calls
    ]
    values = {c.id: CallValues(c.values or (), c.high_value) for r in group for c in r.calls}
    trained = training_rows(rows, chosen, values=values)
    assert len(trained) == len(chosen)


@given(groups(), st.sampled_from(sorted(METHODS)))
def test_advantages_are_finite_have_a_reason_and_fit_the_calls(group: Group, name: str) -> None:
    got = advantages(name, group)
    calls = {c.id: c for r in group for c in r.calls}
    assert set(got) == set(calls)
    for call_id, a in got.items():
        assert math.isfinite(a.value)
        assert a.reason
        assert a.tokens is None or len(a.tokens) == calls[call_id].num_tokens
        assert (a.returns is None) == (name not in WITH_CRITIC)
        assert (a.high_return is None) or name == "hae"
