"""Every credit method on a small group, against numbers worked out by hand next to it."""

import math
from dataclasses import replace

import pytest

from leyden.errors import BadConfig, BadInput
from leyden_trainer.credit import METHODS, Advantage, CallView, RolloutView, assign, credit_method

GROUP = [
    RolloutView("a", 1.0, (CallView("a1", "writer"), CallView("a2", "checker"))),
    RolloutView("b", 0.0, (CallView("b1", "writer"),)),
    RolloutView("c", 0.5, (CallView("c1", "writer"), CallView("c2", "writer"), CallView("c3", "checker"))),
]


def advantages(name: str, *groups: list[RolloutView], memory: dict | None = None, **options) -> dict[str, Advantage]:
    return assign(credit_method(name, options=options), groups or [GROUP], memory)[0]


def values(name: str, *groups: list[RolloutView], **options) -> dict[str, float]:
    return {call: a.value for call, a in advantages(name, *groups, **options).items()}


def test_reinforce_plus_plus_divides_by_the_deviation_over_the_tokens_of_the_step() -> None:
    one = [RolloutView("a", 1.0, (CallView("a1", "x", num_tokens=3),)), RolloutView("b", 0.0, (CallView("b1", "x"),))]
    two = [RolloutView("c", 4.0, (CallView("c1", "x"),)), RolloutView("d", 0.0, (CallView("d1", "x"),))]
    # minus the groups' means: 0.5 (three tokens), -0.5, 2, -2. Mean over 6 tokens (1.5 - 0.5) / 6 = 1/6;
    # sum of squares 3 * 0.25 + 0.25 + 4 + 4 = 9, minus 6 / 36, over 5: variance 53 / 30
    std = math.sqrt(53 / 30 + 1e-8)
    expected = {
        "a1": (0.5 - 1 / 6) / std,
        "b1": (-0.5 - 1 / 6) / std,
        "c1": (2 - 1 / 6) / std,
        "d1": (-2 - 1 / 6) / std,
    }
    assert values("reinforce_plus_plus", one, two) == pytest.approx(expected)


def test_dr_mas_normalises_among_the_calls_of_an_agent() -> None:
    # writer: 1, 0, 0.5, 0.5 (mean 0.5, std sqrt(0.5 / 3)); checker: 1, 0.5 (mean 0.75, std sqrt(0.125))
    writer, checker = math.sqrt(0.5 / 3) + 1e-4, math.sqrt(0.125) + 1e-4
    expected = {"a1": 0.5 / writer, "b1": -0.5 / writer, "c1": 0, "c2": 0, "a2": 0.25 / checker, "c3": -0.25 / checker}
    assert values("dr_mas") == pytest.approx(expected)


def test_return_to_go_discounts_towards_earlier_calls() -> None:
    one = RolloutView("a", 1.0, (CallView("a1", "x", reward=0.2), CallView("a2", "x")))
    two = RolloutView("b", 0.0, (CallView("b1", "x"),))
    # returns 0.2 + 0.9 = 1.1, 1, 0: mean 0.7, squares 0.16 + 0.09 + 0.49 = 0.74, over 2
    std = math.sqrt(0.37) + 1e-4
    expected = {"a1": 0.4 / std, "a2": 0.3 / std, "b1": -0.7 / std}
    assert values("return_to_go", [one, two], gamma=0.9) == pytest.approx(expected)


def test_agent_return_to_go_counts_an_agents_own_calls_and_compares_them_with_its_own() -> None:
    # writer: a1 1, b1 0, c1 0.5 * 0.5 = 0.25, c2 0.5: mean 0.4375, squares 0.3164 + 0.1914 + 0.0352 + 0.0039 = 0.546875
    std = math.sqrt(0.546875 / 3) + 1e-4
    got = values("agent_return_to_go", gamma=0.5)
    expected = {"a1": 0.5625 / std, "b1": -0.4375 / std, "c1": -0.1875 / std, "c2": 0.0625 / std}
    assert {k: got[k] for k in expected} == pytest.approx(expected)
    assert got["a2"] == pytest.approx(0.25 / (math.sqrt(0.125) + 1e-4))


def test_a_reward_to_an_agent_falls_on_its_last_call_or_the_rollouts_last_if_it_made_none() -> None:
    calls = (CallView("1", "boss/writer"), CallView("2", "boss"))
    group = [
        RolloutView("a", 0.0, calls, (("writer", 1.0), ("nobody", 3.0))),
        RolloutView("b", 0.0, (CallView("3", "boss"),)),
    ]
    # gamma 0: the rewards themselves 1, 3, 0: mean 4/3, squares 1/9 + 25/9 + 16/9 = 42/9, over 2
    std = math.sqrt(42 / 18) + 1e-4
    expected = {"1": -1 / 3 / std, "2": 5 / 3 / std, "3": -4 / 3 / std}
    assert values("return_to_go", group, gamma=0.0) == pytest.approx(expected)


def test_mt_grpo_adds_the_turns_own_comparison_to_the_outcomes() -> None:
    group = [
        RolloutView("a", 1.0, (CallView("a1", "x", reward=0.3), CallView("a2", "x"))),
        RolloutView("b", 0.0, (CallView("b1", "x", reward=0.1), CallView("b2", "x"))),
    ]
    # outcome 1, 0: ±0.5 / (std 0.7071 + 1e-4); first turn 0.3, 0.1: ±0.1 / (0.14142 + 1e-4); second turn equal: 0
    outcome, turn = 0.5 / (math.sqrt(0.5) + 1e-4), 0.1 / (math.sqrt(0.02) + 1e-4)
    expected = {"a1": turn + 2 * outcome, "a2": 2 * outcome, "b1": -turn - 2 * outcome, "b2": -2 * outcome}
    assert values("mt_grpo", group, weight=2.0) == pytest.approx(expected)


def test_rae_compares_with_the_agents_running_mean_and_carries_it_on() -> None:
    method = credit_method("rae", options={"decay": 0.5})
    first, memory = assign(method, [GROUP])
    assert {k: a.value for k, a in first.items()} == {"a1": 1, "a2": 1, "b1": 0, "c1": 0.5, "c2": 0.5, "c3": 0.5}
    # writer: three rollouts of mean 0.5, so (1 - 0.125) * 0.5; checker: two of mean 0.75, so (1 - 0.25) * 0.75
    assert memory == pytest.approx({"writer": 0.4375, "checker": 0.5625})
    second, _ = assign(method, [GROUP], memory)
    assert second["a1"].value == pytest.approx(1 - 0.4375)
    assert second["a1"].reason == "0.562 above the running mean 0.438 of writer"


def anchored() -> list[RolloutView]:
    def call(name: str, observation: str) -> CallView:
        return CallView(name, "x", observation=observation)

    return [
        RolloutView("a", 1.0, (call("a1", "start"), call("a2", "wall"))),
        RolloutView("b", 0.0, (call("b1", "start"), call("b2", "start"), call("b3", "door"))),
    ]


def test_gigpo_adds_the_comparison_among_calls_with_the_same_anchor() -> None:
    # returns with gamma 0.5: a1 0.5, a2 1, b1 b2 b3 0. start: 0.5, 0, 0 (mean 1/6, squares 1/9 + 2/36 = 1/6, over 2);
    # wall and door occur once: step part 0
    whole, start = 0.5 / (math.sqrt(0.5) + 1e-4), math.sqrt(1 / 12) + 1e-4
    low = -whole - 2 / 6 / start
    expected = {"a1": whole + 2 * 2 / 6 / start, "a2": whole, "b1": low, "b2": low, "b3": -whole}
    assert values("gigpo", anchored(), gamma=0.5, weight=2.0) == pytest.approx(expected)


def test_gigpo_without_a_scale_subtracts_means_only() -> None:
    expected = {"a1": 0.5 + 1 / 3, "a2": 0.5, "b1": -0.5 - 1 / 6, "b2": -0.5 - 1 / 6, "b3": -0.5}
    assert values("gigpo", anchored(), gamma=0.5, scale="none") == pytest.approx(expected)


def test_gigpo_never_compares_across_tasks() -> None:
    group = anchored()
    other = [
        replace(r, id=f"o{r.id}", reward=9 * r.reward, calls=tuple(replace(c, id=f"o{c.id}") for c in r.calls))
        for r in group
    ]
    both = values("gigpo", group, other)
    assert {k: v for k, v in both.items() if not k.startswith("o")} == values("gigpo", group)


def test_c3_compares_a_call_with_the_others_from_the_same_state() -> None:
    group = [
        RolloutView("a", 1.0, (CallView("a1", "x", state="s"), CallView("a2", "x", state="left"))),
        RolloutView("b", 0.0, (CallView("b1", "x", state="s"), CallView("b2", "x", state="right"))),
        RolloutView("c", 0.5, (CallView("c1", "x", state="s"), CallView("c2", "x", state="right"))),
    ]
    # s: 1, 0, 0.5 against the others' means 0.25, 0.75, 0.5; right: 0 and 0.5 against each other; left: alone
    expected = {"a1": 0.75, "b1": -0.75, "c1": 0.0, "a2": 0.0, "b2": -0.5, "c2": 0.5}
    assert values("c3", group) == pytest.approx(expected)


def decided(*rewards_and_actions: tuple[float, str]) -> list[RolloutView]:
    """Two calls each: the first decides "a" or "b", the second the same letter or another."""
    return [
        RolloutView(
            f"{n}",
            reward,
            tuple(CallView(f"{n}-{k}", "x", observation=f"o{k}", action=letter) for k, letter in enumerate(actions)),
        )
        for n, (reward, actions) in enumerate(rewards_and_actions)
    ]


def test_group_regression_credits_the_call_whose_decision_explains_the_rewards() -> None:
    # Only the first call matters; the second's two actions come equally often with either. Centred counts are ±1/2
    # on each of an anchor's two actions; rollouts aa, ab, ba, bb twice over.
    group = decided(*[(float(actions[0] == "a"), actions) for actions in ("aa", "ab", "ba", "bb") * 2])
    # With z = ±1/2 and both actions' columns mirrored, the first anchor's direction has Σ z² = 8 · (1/4 + 1/4) = 4, the
    # projection of y = ±1/2 on it is exact: the effect of "a" is 1/2 · 4 / (4 + 0.3), and 0 for the second call.
    effect = 0.5 * 4 / 4.3
    rest = 0.3 * (0.5 - effect)
    scale = 0.5 / (math.sqrt(8 * 0.25 / 7) + 1e-4) * math.sqrt(2) / math.hypot(effect + rest, rest)
    got = values("group_regression", group)
    assert got["0-0"] == pytest.approx((effect + rest) * scale)
    assert got["0-1"] == pytest.approx(rest * scale)
    assert got["2-0"] == pytest.approx(-(effect + rest) * scale)


def test_group_regression_is_broadcast_where_decisions_do_not_repeat_or_explain_nothing() -> None:
    unique = decided((1.0, "ab"), (0.0, "cd"), (0.0, "ef"), (1.0, "gh"))
    noise = decided((1.0, "aa"), (0.0, "aa"), (1.0, "bb"), (0.0, "bb"))
    nowhere = [
        replace(r, calls=tuple(replace(c, observation="") for c in r.calls))
        for r in decided((1.0, "aa"), (0.0, "bb"), (1.0, "aa"))
    ]
    for group in (unique, noise, nowhere):
        assert advantages("group_regression", group) == advantages("broadcast", group)


def walked(*rewards_and_places: tuple[float, str]) -> list[RolloutView]:
    """Rollouts of one task, one call of agent x for each place seen."""
    return [
        RolloutView(
            str(n),
            reward,
            tuple(CallView(f"{n}-{k}", "x", state="task", observation=place) for k, place in enumerate(places)),
        )
        for n, (reward, places) in enumerate(rewards_and_places)
    ]


def test_anchor_td_credits_a_call_with_how_much_better_its_agents_next_situation_is() -> None:
    # The step's mean is 0.5 and counts as one visit: o is worth (1 + 0 + 0 + 0.5) / 4, p is worth (1 + 0.5) / 2
    o, p = 0.375, 0.75
    raw = {"0-1": 1 - p, "0-0": p - o + 0.5 * (1 - p), "1-1": 0 - o, "1-0": o - o + 0.5 * (0 - o)}
    # Broadcast's are ±0.5 / (√0.5 + 1e-4), twice each
    scale = 2 * 0.5 / (math.sqrt(0.5) + 1e-4) / math.sqrt(0.25**2 + 0.5**2 + 0.375**2 + 0.1875**2)
    group = walked((1.0, "op"), (0.0, "oo"))
    assert values("anchor_td", group, lam=0.5, share=0.0) == pytest.approx({k: v * scale for k, v in raw.items()})
    mixed = values("anchor_td", group, lam=0.5, share=0.25)
    assert mixed["1-0"] == pytest.approx(0.75 * -0.1875 * scale - 0.25 * 0.5 / (math.sqrt(0.5) + 1e-4))


def test_anchor_td_carries_what_anchors_were_worth_from_step_to_step_task_by_task() -> None:
    method = credit_method("anchor_td", options={"lam": 0.0, "decay": 0.5, "share": 0.0})
    group = walked((1.0, "op"), (0.0, "oo"))
    _, memory = assign(method, [group])
    assert sorted(memory.values()) == [[1.0, 1.0], [3.0, 1.0]]
    again, memory = assign(method, [group], memory)
    assert sorted(memory.values()) == [[1.5, 1.5], [4.5, 1.5]]
    # Half of the first step's visits count: o = (0.5 + 1 + 0.5) / (1.5 + 3 + 1), p = (0.5 + 1 + 0.5) / (0.5 + 1 + 1)
    o, p = 2 / 5.5, 2 / 2.5
    assert again["0-0"].value / again["1-1"].value == pytest.approx((p - o) / -o)
    elsewhere = [replace(r, calls=tuple(replace(c, state="other task") for c in r.calls)) for r in group]
    assert {k: a.value for k, a in assign(method, [elsewhere], memory)[0].items()} == pytest.approx(
        values("anchor_td", group, lam=0.0, share=0.0)
    )


def test_anchor_td_learns_in_a_group_of_equals_from_what_was_seen_but_not_in_a_group_of_one() -> None:
    method = credit_method("anchor_td", options={"share": 0.0})
    seen, equals = walked((1.0, "op"), (0.0, "oo")), walked((0.0, "op"), (0.0, "oo"))
    equals = [replace(r, calls=tuple(replace(c, id=f"equal {c.id}") for c in r.calls)) for r in equals]
    # p has been worth more: going there is credited even where no rollout arrived
    got, memory = assign(method, [seen, equals])
    assert got["equal 0-0"].value > 0 > got["equal 0-1"].value
    assert {a.value for a in assign(method, [equals], memory)[0].values()} == {0.0}
    assert {assign(method, [seen, equals[:1]])[0][f"equal 0-{k}"].value for k in (0, 1)} == {0.0}


def test_anchor_td_forgets_anchors_that_are_no_longer_met_and_keeps_none_for_calls_without_one() -> None:
    method = credit_method("anchor_td", options={"decay": 0.5})
    _, memory = assign(method, [walked((1.0, "op"), (0.0, "oo"))])
    unseen = [RolloutView(str(n), float(n), (CallView(str(n), "x"),)) for n in range(2)]
    for _ in range(9):
        assert memory
        _, memory = assign(method, [unseen], memory)
    assert memory == {}


def chosen(step: int, *rewards_and_actions: tuple[float, str], task: str = "t") -> list[RolloutView]:
    """Agents "x0", "x1", ... decide one letter each."""
    return [
        RolloutView(
            f"s{step}-{n}",
            reward,
            tuple(
                CallView(f"s{step}-{n}-{k}", f"x{k}", observation=f"o{k}", action=letter)
                for k, letter in enumerate(actions)
            ),
            task=task,
        )
        for n, (reward, actions) in enumerate(rewards_and_actions)
    ]


def test_task_regression_credits_decisions_by_all_remembered_rollouts_of_the_task() -> None:
    # With z = ±1/2 for a and b the centred kernel of 2n rollouts is (1 + 0.1) · 2 z z', whose eigenvalue is 1.1 n; the
    # weakest ridge, 0.01, predicts exact returns best. y = z, its deviation 1/2. The effect of "a" is
    # 1.1 · n · 1/2 / (1.1 n + 0.01) / (1/2) = 1.1 n / (1.1 n + 0.01), that of "b" its negative, their mean 0.
    method = credit_method("task_regression")
    first, memory = assign(method, [chosen(1, (1.0, "a"), (0.0, "b"), (1.0, "a"), (0.0, "b"))])
    assert first["s1-0-0"].value == pytest.approx(2.2 / 2.21)
    assert first["s1-1-0"].value == pytest.approx(-2.2 / 2.21)
    second, memory = assign(method, [chosen(2, (1.0, "a"), (0.0, "b"))], memory)
    assert second["s2-0-0"].value == pytest.approx(3.3 / 3.31)
    assert second["s2-1-0"].value == pytest.approx(-3.3 / 3.31)
    assert len(memory["t"]) == 6


def test_task_regression_knows_from_before_what_a_group_of_equals_does_not_tell() -> None:
    # x0's "a" is worth 1, x1's "a" 0.5. The second step's rollouts earn the same, by different decisions.
    method = credit_method("task_regression")
    _, memory = assign(method, [chosen(1, (1.5, "aa"), (1.0, "ab"), (0.5, "ba"), (0.0, "bb"))])
    got, _ = assign(method, [chosen(2, (1.0, "ab"), (1.0, "ab"), (0.5, "ba"), (0.5, "ba"))], memory)
    assert got["s2-0-0"].value > 0 > got["s2-0-1"].value
    assert got["s2-2-0"].value < 0 < got["s2-2-1"].value


def test_task_regression_forgets_the_oldest_and_remembers_no_task_without_a_name() -> None:
    method = credit_method("task_regression", options={"remember": 3})
    _, memory = assign(method, [chosen(1, (1.0, "a"), (0.0, "b"))])
    _, memory = assign(
        method, [chosen(2, (0.25, "a"), (0.75, "b")), chosen(3, (1.0, "a"), (0.0, "b"), task="")], memory
    )
    assert [value for value, _ in memory["t"]] == [0.25, 0.75, 1.0]
    assert set(memory) == {"t"}


def test_task_regression_is_broadcast_where_anchors_recur_or_decisions_explain_too_little() -> None:
    again = [
        replace(r, calls=tuple(replace(c, observation="o", agent="x") for c in r.calls))
        for r in chosen(1, (1.0, "aa"), (0.0, "bb"), (1.0, "aa"), (0.0, "bb"))
    ]
    free_text = chosen(1, (1.0, "ab"), (0.0, "cd"), (0.0, "ef"), (1.0, "gh"))
    noise = chosen(1, (1.0, "aa"), (0.0, "aa"), (1.0, "bb"), (0.0, "bb"))
    for group in (again, free_text, noise):
        assert advantages("task_regression", group) == advantages("broadcast", group)


def scored() -> RolloutView:
    """Two segments: a1 of two tokens and a2 of one, then b1 of one; the reward 1 falls on b1, 0.5 on a1."""
    return RolloutView(
        "r",
        1.0,
        (
            CallView("a1", "a", reward=0.5, num_tokens=2, values=(0.1, 0.2), high_value=0.6),
            CallView("a2", "a", num_tokens=1, values=(0.3,), high_value=0.9),
            CallView("b1", "b", num_tokens=1, values=(0.4,), segment=1, high_value=0.8),
        ),
    )


def test_ppo_is_gae_over_the_rollouts_sampled_tokens() -> None:
    # gamma 0.5, lambda 0.5, rewards 0, 0.5, 0, 1, values 0.1, 0.2, 0.3, 0.4:
    # b1: 1 - 0.4 = 0.6; a2: 0.5 * 0.4 - 0.3 + 0.25 * 0.6 = 0.05; a1[1]: 0.5 + 0.15 - 0.2 + 0.0125 = 0.4625;
    # a1[0]: 0.1 - 0.1 + 0.25 * 0.4625 = 0.115625
    got = advantages("ppo", [scored()], gamma=0.5, lam=0.5, normalize=False)
    assert got["a1"].tokens == pytest.approx((0.115625, 0.4625))
    assert got["a1"].returns == pytest.approx((0.215625, 0.6625))
    assert (got["a2"].tokens, got["b1"].tokens) == (pytest.approx((0.05,)), pytest.approx((0.6,)))
    assert got["a1"].value == pytest.approx((0.115625 + 0.4625) / 2)


def test_ppo_normalises_over_the_tokens_of_the_step_but_not_what_the_critic_learns() -> None:
    got = advantages("ppo", [scored()], gamma=0.5, lam=0.5)
    # advantages 0.115625, 0.4625, 0.05, 0.6
    numbers = (0.115625, 0.4625, 0.05, 0.6)
    mean = sum(numbers) / 4
    std = math.sqrt(sum((n - mean) ** 2 for n in numbers) / 3 + 1e-8)
    flat = [*got["a1"].tokens, *got["a2"].tokens, *got["b1"].tokens]  # type: ignore[misc]
    assert flat == pytest.approx([(n - mean) / std for n in numbers])
    assert got["a1"].returns == pytest.approx((0.215625, 0.6625))


def test_multi_level_gae_has_a_horizon_for_each_kind_of_border() -> None:
    # b1: 0.6. a2, before a new segment (gamma 0.5, lambda 0): 0.2 - 0.3 = -0.1.
    # a1[1], before a call (gamma 1, lambda 0.5): 0.5 + 0.3 - 0.2 - 0.05 = 0.55. a1[0], within (1, 1): 0.2 - 0.1 + 0.55
    options = {"gamma_call": 1.0, "lam_call": 0.5, "gamma_segment": 0.5, "lam_segment": 0.0, "normalize": False}
    got = advantages("multi_level_gae", [scored()], **options)
    assert got["a1"].tokens == pytest.approx((0.65, 0.55))
    assert got["a2"].tokens == pytest.approx((-0.1,))
    assert got["b1"].tokens == pytest.approx((0.6,))


def test_turn_ppo_steps_from_call_to_call() -> None:
    # values 0.1, 0.3, 0.4; b1: 0.6; a2: 0.2 - 0.3 + 0.25 * 0.6 = 0.05; a1: 0.5 + 0.15 - 0.1 + 0.25 * 0.05 = 0.5625
    got = advantages("turn_ppo", [scored()], gamma=0.5, lam=0.5, normalize=False)
    assert {k: a.value for k, a in got.items()} == pytest.approx({"a1": 0.5625, "a2": 0.05, "b1": 0.6})
    assert {k: a.returns for k, a in got.items()} == {
        "a1": pytest.approx((0.6625,)),
        "a2": pytest.approx((0.35,)),
        "b1": pytest.approx((1.0,)),
    }
    assert got["a1"].tokens is None


def test_hae_bootstraps_a_segment_from_the_next_ones_high_value() -> None:
    # low, gamma 0.5, lambda 0.5. Segment a: a2: 0 + 0.5 * 0.8 - 0.3 = 0.1 (nothing of b1's advantage);
    # a1: 0.5 + 0.5 * 0.3 - 0.1 + 0.25 * 0.1 = 0.575. Segment b: 1 - 0.4 = 0.6.
    # high: b: 1 - 0.8 = 0.2; a, two calls: 0.5 + 0.25 * 0.8 - 0.6 + 0.25 * 0.9 * 0.2 = 0.145
    got = advantages("hae", [scored()], gamma=0.5, lam=0.5, lam_segment=0.9, normalize=False)
    assert {k: a.value for k, a in got.items()} == pytest.approx({"a1": 0.575 + 0.145, "a2": 0.1, "b1": 0.6 + 0.2})
    assert {k: a.returns[0] for k, a in got.items() if a.returns} == pytest.approx({"a1": 0.675, "a2": 0.4, "b1": 1.0})
    assert got["a1"].high_return == pytest.approx(0.745)
    assert got["a2"].high_return is None
    assert got["b1"].high_return == pytest.approx(1.0)


def test_hae_normalises_each_level_by_itself() -> None:
    got = advantages("hae", [scored()], gamma=0.5, lam=0.5, lam_segment=0.9)
    # low 0.575, 0.1, 0.6: mean 0.425, squares 0.0225 + 0.105625 + 0.030625 = 0.15875, over 2;
    # high 0.145, 0.2: mean 0.1725, ±0.0275, std 0.0275 * sqrt(2)
    low, high = math.sqrt(0.15875 / 2 + 1e-8), math.sqrt(2 * 0.0275**2 + 1e-8)
    expected = {"a1": 0.15 / low - 0.0275 / high, "a2": -0.325 / low, "b1": 0.175 / low + 0.0275 / high}
    assert {k: a.value for k, a in got.items()} == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.heads])
def test_a_method_with_a_critic_says_so_and_refuses_calls_without_values(name: str) -> None:
    assert credit_method(name).needs_critic
    with pytest.raises(BadInput, match="call a1 of rollout a has no"):
        advantages(name)


def test_a_critic_needs_calls_of_one_choice() -> None:
    rollout = scored()
    twice = replace(rollout, calls=(replace(rollout.calls[0], num_choices=2), *rollout.calls[1:]))
    with pytest.raises(BadInput, match="call a1 of rollout r has 2 choices; with a critic a call must have one"):
        advantages("ppo", [twice])


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if not entry.heads])
def test_without_a_critic_no_values_are_asked_for(name: str) -> None:
    assert not credit_method(name).needs_critic
    assert set(advantages(name)) == {"a1", "a2", "b1", "c1", "c2", "c3"}


def test_an_option_that_the_method_has_not_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"credit\.options\.omega = 1.* method gigpo: .*its options: gamma, weight"):
        credit_method("gigpo", options={"omega": 1})
    with pytest.raises(BadConfig, match=r"credit\.options\.gamma = 2.* less than or equal to 1"):
        credit_method("gigpo", options={"gamma": 2})
    with pytest.raises(BadConfig, match=r"method broadcast: .*its options: none"):
        credit_method("broadcast", options={"gamma": 1})
