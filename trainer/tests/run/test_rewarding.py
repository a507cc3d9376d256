"""The rewards that the trainer adds: declared rules, a judge, and what happens to groups that teach nothing."""

import dataclasses
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from leyden.errors import BadConfig, TrainingStopped
from leyden.store import SqlStore
from leyden.testing import FakeServer
from leyden.testing.fake_answer import Reply
from leyden.testing.store_contract import claimed, ended, rewarded, sampled
from leyden.types import Call, Choice, Rollout, Structure, ToolUse
from leyden_trainer.assignment import has_signal
from leyden_trainer.config import JudgeConfig, RuleConfig, TrainConfig, load_config
from leyden_trainer.credit import credit_method, view
from leyden_trainer.experience import Collecting, Member, collect_batch, read_members
from leyden_trainer.judge import Judge, JudgeCost
from leyden_trainer.rewarding import Rewarding
from leyden_trainer.rules import Rule, load_rules

RULES = """
def long(call):
    return len(call.answer.choices[0].token_ids) > 1

def raises(call):
    raise KeyError("no table")

def says_nan(call):
    return float("nan")

def never(call):
    return None
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(tmp_path / "store.sqlite")
    yield store
    await store.close()


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    (tmp_path / "rules.py").write_text(RULES)
    return tmp_path / "rules.py"


def made_call(rollout_id: str, name: str, *, agent: str = "writer", text: str = "hello", **changes: Any) -> Call:
    """A trainable call with structure; `changes` to the call."""
    choice = Choice(message={"role": "assistant", "content": text}, token_ids=(7, 8), logprobs=(-0.5, -0.1))
    choice = choice.model_copy(update={"finish_reason": changes.pop("finish_reason", "stop")})
    call = sampled(rollout_id, name, choices=(choice,))
    return call.model_copy(update={"structure": Structure(agent=("boss", agent)), **changes})


async def finished(store: SqlStore, rollouts: Sequence[tuple[Rollout, Sequence[Call], float]]) -> list[Member]:
    """Run through the store as a runner would have, and read back."""
    for rollout, calls, value in rollouts:
        await claimed(store, rollout.id, group_id=rollout.group_id, task=rollout.task)
        await store.record(calls)
        await store.finish(ended(rollout.id, rewards=[rewarded(rollout.id, value)], result=rollout.result))
    return await read_members(store, [await store.rollout(r.id) for r, _, _ in rollouts], max_tokens=None)


def rollout(name: str, group_id: str = "g", **fields: Any) -> Rollout:
    return Rollout(id=name, group_id=group_id, task={"question": "6 × 7?"}, **fields)


def rules(**declared: Any) -> tuple[Rule, ...]:
    return load_rules({name: RuleConfig.model_validate(rule) for name, rule in declared.items()})


async def given(store: SqlStore, members: Sequence[Member], *wanted: Rule) -> dict[tuple[str, str], float]:
    """(call, rule) → value, as the store has it after the rules were applied."""
    await Rewarding(store, wanted)(members)
    found = await store.rewards([member.rollout.id for member in members])
    return {(r.call_id or "", r.name): r.value for r in found if r.source == "rule"}


async def test_what_happened_in_a_call_is_rewarded_by_its_name(store: SqlStore) -> None:
    tools = (
        ToolUse(id="1", name="sql", error="no such table"),
        ToolUse(id="2", name="sql", error="no such column"),
        ToolUse(id="3", name="sql", result=[]),
        ToolUse(id="4", kind="handoff", name="to_checker", result="checker"),
    )
    raised = Structure(agent=("boss", "writer"), outcome="raised", error="not JSON")
    calls = [
        made_call("a", "a1", tools=tools),
        made_call("a", "a2", structure=raised, started_at=101.0),
        made_call("a", "a3", finish_reason="length", started_at=102.0),
    ]
    members = await finished(store, [(rollout("a"), calls, 1.0)])
    found = await given(
        store,
        members,
        *rules(
            call={"weight": -0.01},
            tool_error={"weight": -0.1},
            good={"event": "tool_ok", "weight": 0.5},
            parse_failure={"weight": -0.2},
            length_stop={"weight": -0.3},
        ),
    )
    assert found == {
        **{(name, "call"): -0.01 for name in ("a1", "a2", "a3")},
        ("a1", "tool_error"): pytest.approx(-0.2),
        ("a1", "good"): 0.5,
        ("a2", "parse_failure"): -0.2,
        ("a3", "length_stop"): -0.3,
    }


async def test_a_users_function_may_answer_with_a_number_a_bool_or_nothing(store: SqlStore, rules_file: Path) -> None:
    members = await finished(store, [(rollout("a"), [made_call("a", "a1")], 1.0)])
    found = await given(
        store,
        members,
        *rules(
            long={"function": f"{rules_file}:long", "weight": 0.2},
            never={"function": f"{rules_file}:never"},
            others={"function": f"{rules_file}:long", "agents": ["checker"]},
            mine={"function": f"{rules_file}:long", "agents": ["writer"]},
        ),
    )
    assert found == {("a1", "long"): 0.2, ("a1", "mine"): 1.0}


async def test_rule_rewards_reach_credit_and_applying_them_again_changes_nothing(store: SqlStore) -> None:
    calls = [made_call("a", "a1", tools=(ToolUse(id="1", name="sql", error="no such table"),)), made_call("a", "a2")]
    members = await finished(store, [(rollout("a"), calls, 1.0)])
    rewarding = Rewarding(store, rules(tool_error={"weight": -0.1}))
    (once,), _ = await rewarding(members)
    seen = view(once.rollout, once.calls, once.rewards)
    assert [(call.id, call.reward) for call in seen.calls] == [("a1", -0.1), ("a2", 0.0)]
    assert once.total == 1.0
    for again in ([once], members, await read_members(store, [once.rollout], max_tokens=None)):
        (twice,), _ = await rewarding(again)
        assert sum(reward.source == "rule" for reward in twice.rewards) == 1
    assert len(await store.rewards(["a"])) == 2


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("raises", "the rule r raised KeyError: 'no table'"),
        ("says_nan", "the rule r on call a1: a reward must be finite, got nan"),
    ],
)
async def test_a_rule_that_cannot_say_makes_the_rollout_incomplete(
    store: SqlStore, rules_file: Path, function: str, reason: str
) -> None:
    members = await finished(store, [(rollout("a"), [made_call("a", "a1")], 1.0)])
    (member,), _ = await Rewarding(store, rules(r={"function": f"{rules_file}:{function}"}))(members)
    assert [why.partition(";")[0] for why in member.incomplete] == [reason]
    assert member.transitions == ()


SPARSE = """
[model]
path = "tiny"
[agent]
function = "agent.py:solve"
[tasks]
train = "train.jsonl"
heldout = "heldout.jsonl"
[reward]
function = "rewards.py:score"
[reward.rules]
"""


def configured(tmp_path: Path, rules_text: str) -> TrainConfig:
    (tmp_path / "train.toml").write_text(SPARSE + rules_text)
    return load_config(tmp_path / "train.toml")


def test_rules_are_declared_in_toml(tmp_path: Path) -> None:
    declared = 'tool_error = -0.1\nruns = {function = "rules.py:executes", weight = 0.2, agents = ["writer"]}\n'
    config = configured(tmp_path, declared)
    assert config.reward.rules == {
        "tool_error": RuleConfig(weight=-0.1),
        "runs": RuleConfig(function=f"{tmp_path}/rules.py:executes", weight=0.2, agents=("writer",)),
    }
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("tool_eror = -0.1", r"rule tool_eror is no event \(call, tool_ok, tool_error, parse_failure, length_stop\)"),
        ('x = {event = "call", function = "a.py:f"}', "rule x has both an event and a function"),
        ('x = {funktion = "a.py:f"}', r"unknown key reward\.rules\.x\.funktion; known here: event, function, weight"),
        ("call = nan", "finite"),
    ],
)
def test_a_rule_that_is_not_understood_is_refused(tmp_path: Path, declared: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        configured(tmp_path, declared)


def verdict(*scores: float) -> str:
    return json.dumps({"scores": [{"run": n, "reason": "so", "score": score} for n, score in enumerate(scores, 1)]})


def judge(url: str, tmp_path: Path, **changes: Any) -> Judge:
    return Judge(
        JudgeConfig(url=url, model="wise", **changes), cache=tmp_path / "cache", key="judge-key", retry_wait_s=0.0
    )


async def pair(store: SqlStore) -> list[Member]:
    """A group of two rollouts whose tool calls have different ids, and a third that said what the first did."""
    texts = {"a": "forty-two", "b": "no idea", "c": "forty-two"}
    return await finished(
        store, [(rollout(n, result=t), [made_call(n, f"{n}1", text=t)], 0.0) for n, t in texts.items()]
    )


async def test_a_judge_scores_a_group_once_and_equal_runs_equally(store: SqlStore, tmp_path: Path) -> None:
    members = await pair(store)
    with FakeServer([Reply(verdict(0.9, 0.2))]) as server:
        rewarding = Rewarding(store, judge=judge(server.url, tmp_path, weight=2.0, rubric="Be kind."))
        judged, cost = await rewarding(members)
        assert [member.total for member in judged] == pytest.approx([1.8, 0.4, 1.8])
        assert (cost.requests, cost.cached) == (1, 0)
        assert cost.prompt_tokens > 0
        assert cost.completion_tokens > 0
        (asked,) = server.requests
        assert asked.headers["authorization"] == "Bearer judge-key"
        system, user = (message["content"] for message in asked.body["messages"])
        assert "Be kind." in system
        assert user.count("<run ") == 2
        assert "6 × 7?" in user
        assert "no idea" in user
        again, cost = await rewarding(await read_members(store, [m.rollout for m in members], max_tokens=None))
    assert cost == JudgeCost()
    assert [member.total for member in again] == pytest.approx([1.8, 0.4, 1.8])
    assert [r.source for r in await store.rewards(["a"])] == ["grader", "judge"]


async def test_the_same_content_is_paid_for_once(store: SqlStore, tmp_path: Path) -> None:
    members = await pair(store)
    fresh = [
        dataclasses.replace(m, rollout=m.rollout.model_copy(update={"id": f"other-{m.rollout.id}"})) for m in members
    ]
    with FakeServer([Reply(verdict(0.9, 0.2))]) as server:
        wise = judge(server.url, tmp_path)
        first = await wise.score([(m.rollout, m.calls) for m in members])
        second = await wise.score([(m.rollout, m.calls) for m in fresh])
        assert first.scores == second.scores == (0.9, 0.2, 0.9)
        assert second.cost == JudgeCost(cached=1)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the first one was best", "the judge's answer cannot be used"),
        (verdict(0.9), r"the judge scored the runs \[1\], expected each of 1 to 2 once"),
        (verdict(0.9, 0.2, 0.1), r"the judge scored the runs \[1, 2, 3\], expected each of 1 to 2 once"),
        (verdict(0.9, 7.0), r"cannot be used: scores\.1\.score: .* less than or equal to 1"),
        ('{"scores": [{"run": 1, "score": 0.5}, {"run": 1, "score": 0.4}]}', r"scored the runs \[1, 1\]"),
        ('{"scores": [{"run": 1, "score": "good"}, {"run": 2, "score": 0.4}]}', r"scores\.0\.score: .* valid number"),
    ],
)
async def test_nonsense_makes_the_group_incomplete_and_is_not_kept(
    store: SqlStore, tmp_path: Path, text: str, reason: str
) -> None:
    members = await pair(store)
    with FakeServer([Reply(text)]) as server:
        judged, _ = await Rewarding(store, judge=judge(server.url, tmp_path))(members)
    for member in judged:
        (why,) = member.incomplete
        assert re.search(reason, why)
        assert [reward.source for reward in member.rewards] == ["grader"]
    with FakeServer([Reply(verdict(0.9, 0.2))]) as server:  # nothing of it was kept
        judged, _ = await Rewarding(store, judge=judge(server.url, tmp_path))(members)
        assert len(server.requests) == 1


async def test_a_judge_that_is_busy_is_asked_again_and_one_that_refuses_is_not(store: SqlStore, tmp_path: Path) -> None:
    members = await pair(store)
    busy = Reply(status=429, error={"message": "slow down", "type": "rate_limit"})
    with FakeServer([busy, busy, Reply(verdict(0.9, 0.2))]) as server:
        judged, _ = await Rewarding(store, judge=judge(server.url, tmp_path))(members)
        assert not any(member.incomplete for member in judged)
        assert len(server.requests) == 3
    with FakeServer([Reply(status=401, error={"message": "who are you", "type": "auth"})]) as server:
        judged, _ = await Rewarding(store, judge=judge(server.url, tmp_path / "other"))(members)
        assert all("gave no answer: HTTP 401" in member.incomplete[0] for member in judged)
        assert len(server.requests) == 1


def new_groups(rewards: Sequence[Sequence[float]]) -> Iterator[list[Rollout]]:
    for number, group in enumerate(rewards):
        yield [rollout(f"g{number}-r{place}", f"g{number}") for place in range(len(group))]


async def collected(store: SqlStore, rewards: Sequence[Sequence[float]], count: int, *, replace: bool) -> Any:
    """A batch of `count` from groups that will be rewarded like this, in this order, under `broadcast`."""
    by_id = {f"g{n}-r{m}": value for n, group in enumerate(rewards) for m, value in enumerate(group)}

    async def run(rollouts: list[Rollout]) -> list[Rollout]:
        made = [(r, [made_call(r.id, f"{r.id}-1")], by_id[r.id]) for r in rollouts]
        return [member.rollout for member in await finished(store, made)]

    how = Collecting(
        run=run,
        reward=Rewarding(store),
        has_signal=lambda group: has_signal(group, credit_method("broadcast"), {}),
        replace_silent=replace,
        max_tokens=None,
        max_incomplete=0.0,
    )
    return await collect_batch(store, new_groups(rewards), count, how)


async def test_a_group_without_a_signal_is_replaced_and_counted(store: SqlStore) -> None:
    batch = await collected(store, [(1, 0), (1, 1), (0, 0), (0, 1), (9, 9)], 2, replace=True)
    assert [group[0].rollout.group_id for group in batch.groups] == ["g0", "g3"]
    assert (batch.replaced_silent, batch.silent, batch.replaced, len(batch.members)) == (2, 0, 0, 8)
    assert batch.mean_reward == 0.5  # over all that ran: leaving the silent ones out would flatter or blame the policy


async def test_without_dynamic_sampling_silent_groups_stay_and_are_counted(store: SqlStore) -> None:
    batch = await collected(store, [(1, 0), (1, 1)], 2, replace=False)
    assert (len(batch.groups), batch.silent, batch.replaced_silent) == (2, 1, 0)


async def test_replacing_ends_at_three_times_the_batch(store: SqlStore) -> None:
    batch = await collected(store, [(1, 0)] + [(1, 1)] * 20, 2, replace=True)
    assert (len(batch.groups), batch.replaced_silent) == (1, 6)


async def test_a_rule_may_give_a_group_its_signal(store: SqlStore) -> None:
    """Equal outcomes, but one rollout took an extra call."""
    made = [
        (rollout("a"), [made_call("a", "a1"), made_call("a", "a2", started_at=101.0)], 1.0),
        (rollout("b"), [made_call("b", "b1")], 1.0),
    ]
    members = await finished(store, made)
    method = credit_method("broadcast")
    assert not has_signal(members, method, {})
    costly, _ = await Rewarding(store, rules(call={"weight": -0.1}))(members)
    assert has_signal(costly, method, {})


async def test_a_judge_that_always_fails_stops_training_with_its_reason(store: SqlStore, tmp_path: Path) -> None:
    async def run(rollouts: list[Rollout]) -> list[Rollout]:
        made = [(r, [made_call(r.id, f"{r.id}-1")], 0.0) for r in rollouts]
        return [member.rollout for member in await finished(store, made)]

    with FakeServer([Reply("no")]) as server:
        how = Collecting(
            run=run,
            reward=Rewarding(store, judge=judge(server.url, tmp_path)),
            has_signal=lambda group: True,
            replace_silent=False,
            max_tokens=None,
            max_incomplete=0.25,
        )
        with pytest.raises(TrainingStopped, match=r"2 of 2 rollouts are incomplete.*the judge's answer cannot be used"):
            await collect_batch(store, new_groups([(0, 0)]), 1, how)
