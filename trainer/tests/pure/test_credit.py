import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.errors import BadConfig, BadReward
from leyden.types import Attempt, Call, Reward, Rollout, Structure
from leyden_trainer.credit import METHODS, CallView, RolloutView, assign, credit_method, view

GROUP = [
    RolloutView("a", 1.0, (CallView("a1", "writer"), CallView("a2", "checker"))),
    RolloutView("b", 0.0, (CallView("b1", "writer"),)),
    RolloutView("c", 0.5, (CallView("c1", "writer"), CallView("c2", "writer"), CallView("c3", "checker"))),
]


def values(name: str, group: list[RolloutView] = GROUP, agents: tuple[str, ...] = ()) -> dict[str, float]:
    return {call: a.value for call, a in assign(credit_method(name, agents=agents), group).items()}


def test_broadcast_gives_each_call_its_rollouts_normalised_reward() -> None:
    # mean 0.5; sample standard deviation of 1, 0, 0.5 is 0.5
    up = 0.5 / (0.5 + 1e-4)
    assert values("broadcast") == pytest.approx({"a1": up, "a2": up, "b1": -up, "c1": 0, "c2": 0, "c3": 0})
    assert values("grpo") == values("broadcast")


def test_dr_grpo_does_not_divide() -> None:
    assert values("dr_grpo") == pytest.approx({"a1": 0.5, "a2": 0.5, "b1": -0.5, "c1": 0, "c2": 0, "c3": 0})


def test_rloo_compares_with_the_others() -> None:
    assert values("rloo") == pytest.approx({"a1": 0.75, "a2": 0.75, "b1": -0.75, "c1": 0, "c2": 0, "c3": 0})


def test_per_agent_normalises_among_the_calls_of_an_agent() -> None:
    # writer: 1, 0, 0.5, 0.5 (mean 0.5, std sqrt(0.5 / 3)); checker: 1, 0.5 (mean 0.75, std sqrt(0.125))
    writer, checker = math.sqrt(0.5 / 3) + 1e-4, math.sqrt(0.125) + 1e-4
    expected = {"a1": 0.5 / writer, "b1": -0.5 / writer, "c1": 0, "c2": 0, "a2": 0.25 / checker, "c3": -0.25 / checker}
    assert values("per_agent") == pytest.approx(expected)


def test_to_go_discounts_towards_earlier_calls() -> None:
    one = RolloutView("a", 1.0, (CallView("a1", "x", reward=0.2), CallView("a2", "x")))
    two = RolloutView("b", 0.0, (CallView("b1", "x"),))
    returns = {"a1": 0.2 + 0.95 * 1.0, "a2": 1.0, "b1": 0.0}
    mean, std = statistics.mean(returns.values()), statistics.stdev(returns.values())
    expected = {name: (value - mean) / (std + 1e-4) for name, value in returns.items()}
    assert values("to_go", [one, two]) == pytest.approx(expected)


def test_only_the_chosen_agents_are_trained() -> None:
    assert set(values("broadcast", agents=("checker",))) == {"a2", "c3"}
    nested = [RolloutView("a", 1.0, (CallView("a1", "boss/writer"),))]
    assert set(values("broadcast", nested, agents=("writer",))) == {"a1"}


def test_a_group_of_one_and_a_group_of_equals_have_no_advantage() -> None:
    for name in METHODS:
        assert set(values(name, GROUP[:1]).values()) <= {0.0} or name in ("to_go", "agent_to_go", "per_agent")
        equal = [RolloutView(c, 0.1, (CallView(f"{c}1", "x"),)) for c in "abc"]
        assert set(values(name, equal).values()) == {0.0}


def test_the_reason_says_what_was_compared() -> None:
    advantages = assign(credit_method("broadcast"), GROUP)
    assert advantages["a1"].reason == "0.5 above the mean 0.5 of the 3 rollouts of this task"
    assert assign(credit_method("rloo"), GROUP)["b1"].reason == (
        "0.75 below the mean 0.75 of the 2 other rollouts of this task"
    )


def test_an_unknown_method_names_those_that_there_are() -> None:
    with pytest.raises(BadConfig, match=r"credit\.method = 'magic' is unknown; choose broadcast, grpo"):
        credit_method("magic")
    with pytest.raises(BadConfig, match="cannot be loaded"):
        credit_method("no_such_module:f")


def test_a_function_of_the_users_own_is_a_method() -> None:
    assert credit_method("leyden_trainer.credit.choices:assign_by").rule.__name__ == "assign_by"


def test_a_stored_rollout_is_seen_with_its_rewards_and_answered_calls() -> None:
    answered = Attempt(number=0, status="ok", started_at=0, latency_ms=0)
    calls = [
        Call(id="2", rollout_id="r", started_at=2, attempts=(answered,), structure=Structure(agent=("boss", "writer"))),
        Call(id="1", rollout_id="r", started_at=1, attempts=(answered,)),
        Call(id="0", rollout_id="r", started_at=0),
    ]
    rewards = [
        Reward(rollout_id="r", value=1),
        Reward(rollout_id="r", value=0.5),
        Reward(rollout_id="r", value=2, agent="writer"),
        Reward(rollout_id="r", value=3, call_id="2"),
    ]
    seen = view(Rollout(id="r"), calls, rewards)
    assert seen == RolloutView("r", 1.5, (CallView("1", ""), CallView("2", "boss/writer", 3.0)), (("writer", 2.0),))
    with pytest.raises(BadReward, match="rollout r has no reward"):
        view(Rollout(id="r"), calls, rewards[2:])


rewards = st.floats(-10, 10).map(lambda value: round(value, 3))
groups = st.lists(st.tuples(rewards, st.integers(1, 3)), min_size=2, max_size=5).map(
    lambda made: [
        RolloutView(str(n), reward, tuple(CallView(f"{n}-{k}", "xy"[k % 2]) for k in range(count)))
        for n, (reward, count) in enumerate(made)
    ]
)


@given(groups, st.sampled_from(["broadcast", "dr_grpo", "rloo", "per_agent"]))
def test_adding_a_constant_to_every_reward_changes_nothing(group: list[RolloutView], name: str) -> None:
    moved = [RolloutView(r.id, r.reward + 64.0, r.calls) for r in group]
    assert values(name, moved) == pytest.approx(values(name, group), abs=1e-5)


@given(groups, st.sampled_from(sorted(METHODS)))
def test_the_order_of_the_group_changes_nothing(group: list[RolloutView], name: str) -> None:
    assert values(name, group[::-1]) == pytest.approx(values(name, group), abs=1e-9)


@given(st.lists(rewards, min_size=2, max_size=6))
def test_with_one_call_each_broadcast_and_per_agent_are_grpo(given_rewards: list[float]) -> None:
    group = [RolloutView(str(n), r, (CallView(str(n), "x"),)) for n, r in enumerate(given_rewards)]
    assert values("broadcast", group) == pytest.approx(values("per_agent", group))
