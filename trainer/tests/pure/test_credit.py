from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leyden.errors import BadConfig, BadInput, BadReward
from leyden.types import Attempt, Call, Choice, Request, Reward, Rollout, Structure, ToolUse
from leyden_trainer.credit import CallValues, CallView, RolloutView, assign, credit_method, valued, view

GROUP = [
    RolloutView("a", 1.0, (CallView("a1", "writer"), CallView("a2", "checker"))),
    RolloutView("b", 0.0, (CallView("b1", "writer"),)),
    RolloutView("c", 0.5, (CallView("c1", "writer"), CallView("c2", "writer"), CallView("c3", "checker"))),
]


def values(name: str, group: list[RolloutView] = GROUP, agents: tuple[str, ...] = ()) -> dict[str, float]:
    return {call: a.value for call, a in assign(credit_method(name, agents=agents), [group])[0].items()}


def test_broadcast_gives_each_call_its_rollouts_normalised_reward() -> None:
    # mean 0.5; sample standard deviation of 1, 0, 0.5 is 0.5
    up = 0.5 / (0.5 + 1e-4)
    assert values("broadcast") == pytest.approx({"a1": up, "a2": up, "b1": -up, "c1": 0, "c2": 0, "c3": 0})
    assert values("grpo") == values("broadcast")


def test_dr_grpo_does_not_divide() -> None:
    assert values("dr_grpo") == pytest.approx({"a1": 0.5, "a2": 0.5, "b1": -0.5, "c1": 0, "c2": 0, "c3": 0})


def test_rloo_compares_with_the_others() -> None:
    assert values("rloo") == pytest.approx({"a1": 0.75, "a2": 0.75, "b1": -0.75, "c1": 0, "c2": 0, "c3": 0})


def test_only_the_chosen_agents_are_trained() -> None:
    assert set(values("broadcast", agents=("checker",))) == {"a2", "c3"}
    nested = [RolloutView("a", 1.0, (CallView("a1", "boss/writer"),))]
    assert set(values("broadcast", nested, agents=("writer",))) == {"a1"}


def test_the_reason_says_what_was_compared() -> None:
    advantages, _ = assign(credit_method("broadcast"), [GROUP])
    assert advantages["a1"].reason == "0.5 above the mean 0.5 of the 3 rollouts of this task"
    assert assign(credit_method("rloo"), [GROUP])[0]["b1"].reason == (
        "0.75 below the mean 0.75 of the 2 other rollouts of this task"
    )


def test_an_unknown_method_names_those_that_there_are() -> None:
    with pytest.raises(BadConfig, match=r"credit\.method = 'magic' is unknown; choose broadcast, grpo"):
        credit_method("magic")
    with pytest.raises(BadConfig, match="there is no module 'no_such_module'"):
        credit_method("no_such_module:f")


def test_a_function_of_the_users_own_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_credit.py").write_text(
        "from leyden_trainer.credit import Advantage\n"
        "def last_only(group):\n"
        "    return {r.calls[-1].id: Advantage(r.reward, 'the last call') for r in group}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert values("my_credit:last_only") == {"a2": 1.0, "b1": 0.0, "c3": 0.5}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", r"returned None; expected \{call id: Advantage\}"),
        ("{'a1': 1.0}", r"gave the call 'a1' 1\.0; expected an Advantage"),
        ("{'d1': Advantage(1.0, '')}", "gave the call 'd1' an advantage, but it is none of the 6 calls of its group"),
        ("{'a1': Advantage(float('nan'), '')}", "gave the call 'a1' an advantage that is not finite: nan"),
        (
            "{'a1': Advantage(0.0, '', tokens=(1.0, float('inf')))}",
            "gave the call 'a1' an advantage that is not finite",
        ),
        ("{'a1': Advantage(1.0, '', tokens=(1.0, 1.0))}", "gave the call 'a1' 2 advantages, expected one .*: 1"),
    ],
)
def test_what_a_users_function_gives_is_refused_if_it_cannot_be_trained_on(
    tmp_path: Path, returned: str, message: str
) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(f"from leyden_trainer.credit import Advantage\ndef f(group):\n    return {returned}\n")
    with pytest.raises(BadInput, match=f"the credit function .*wrong.py:f {message}"):
        values(f"{file}:f")


def test_a_stored_rollout_is_seen_with_its_rewards_and_answered_calls() -> None:
    choice = Choice(message={"role": "assistant", "content": "yes"}, token_ids=(5, 6, 7))
    answered = Attempt(number=0, status="ok", started_at=0, latency_ms=0, choices=(choice,))
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
    assert (seen.id, seen.reward, seen.agent_rewards) == ("r", 1.5, (("writer", 2.0),))
    assert [(c.id, c.agent, c.reward, c.num_tokens) for c in seen.calls] == [
        ("1", "", 0.0, 3),
        ("2", "boss/writer", 3.0, 3),
    ]
    with pytest.raises(BadReward, match="rollout r has no reward"):
        view(Rollout(id="r"), calls, rewards[2:])


def a_call(number: int, agent: str, asked: list[dict[str, Any]], **more: Any) -> Call:
    said = more.pop("said", {"role": "assistant", "content": "yes"})
    answered = Attempt(number=0, status="ok", started_at=0, latency_ms=0, choices=(Choice(message=said),))
    structure = Structure(agent=(agent,), node=more.pop("node", None))
    request = Request(messages=tuple(asked))
    return Call(
        id=f"{agent}{number}",
        rollout_id="r",
        started_at=number,
        attempts=(answered,),
        structure=structure,
        request=request,
        **more,
    )


def seen(*calls: Call) -> tuple[CallView, ...]:
    return view(Rollout(id="r"), calls, [Reward(rollout_id="r", value=1)]).calls


def test_states_are_equal_if_the_same_agent_was_asked_the_same_words() -> None:
    asked = [{"role": "user", "content": "how  many?\n", "id": "made up"}]
    one, same, other = seen(
        a_call(1, "x", asked), a_call(2, "x", [{"content": "how many?", "role": "user"}]), a_call(3, "y", asked)
    )
    assert one.state == same.state != other.state


def test_an_observation_is_what_came_after_the_agents_own_last_answer() -> None:
    history = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "left"}]
    other_history = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "right"}]
    new = [{"role": "user", "content": "a wall"}]
    one, two = seen(a_call(1, "x", history + new), a_call(2, "x", other_history + new))
    assert one.observation == two.observation
    assert one.state != two.state


def test_an_action_is_the_tool_call_whatever_its_id_and_the_order_of_its_arguments() -> None:
    def said(identity: str, arguments: str) -> dict[str, Any]:
        call = {"id": identity, "type": "function", "function": {"name": "add", "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    one, two, three = seen(
        a_call(1, "x", [], said=said("1", '{"a": 1, "b": 2}')),
        a_call(2, "x", [], said=said("2", '{"b":2, "a":1}')),
        a_call(3, "x", [], said=said("3", '{"b":2, "a":2}')),
    )
    assert one.action == two.action != three.action


def test_a_segment_ends_where_the_agent_or_node_changes_or_a_handoff_is_made() -> None:
    handoff = ToolUse(kind="handoff", name="to_x")
    calls = seen(
        a_call(1, "x", []),
        a_call(2, "x", [], tools=(handoff,)),
        a_call(3, "x", []),
        a_call(4, "y", []),
        a_call(5, "y", [], node="other"),
        a_call(6, "y", [], node="other"),
    )
    assert [call.segment for call in calls] == [0, 0, 1, 2, 3, 3]


def test_values_that_do_not_fit_the_calls_are_refused() -> None:
    rollout = RolloutView("r", 1.0, (CallView("c", "x", num_tokens=2),))
    assert valued(rollout, {"c": CallValues((0.5, 0.25), 1.0)}).calls[0] == replace(
        rollout.calls[0], values=(0.5, 0.25), high_value=1.0
    )
    with pytest.raises(BadInput, match="call c of rollout r has no values"):
        valued(rollout, {})
    with pytest.raises(BadInput, match="has 3 values, expected one per sampled token: 2"):
        valued(rollout, {"c": CallValues((0.0, 0.0, 0.0))})
    with pytest.raises(BadInput, match="not finite"):
        valued(rollout, {"c": CallValues((0.0, float("nan")))})
