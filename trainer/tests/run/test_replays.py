"""C3 with replays: real server, scripted policy, the openai client as an agent; credit against numbers by hand."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import openai
import pytest

from leyden.client import HttpStore
from leyden.errors import BadConfig
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call, Endpoint, Failure, Outcome, Reward, Rollout
from leyden_trainer.alternatives import alternatives
from leyden_trainer.assignment import configured_method
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import assign, credit_method, view
from leyden_trainer.experience import Member, read_members

C3 = credit_method("c3")
WORTH = {"good": 1.0, "fair": 0.5, "bad": 0.0}
REPLIES = [Reply(text) for text in ("plan", "fair", "good", "bad", "bad")]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[HttpStore]:
    with FakeServer(REPLIES) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="fake", version=0))
        yield store
        await store.close()


async def play(store: HttpStore, order: Callable[[str], str]) -> None:
    """Run what is queued with an agent that asks for a plan, then has it done; the reward is what the work is worth."""
    while claims := await store.claim("me", limit=1, lease_s=600):
        (claim,) = claims
        agent = openai.AsyncOpenAI(base_url=f"{store.url}/v1", api_key=claim.key or "", max_retries=0)
        try:
            plan = await said(agent, "make a plan")
            work = await said(agent, order(plan))
        except openai.BadRequestError as error:
            failure = Failure(kind="agent_error", message=str(error))
            ending = {"status": "failed", "failure": failure, "rewards": (reward(claim.rollout, 0.0),)}
        else:
            ending = {"status": "succeeded", "rewards": (reward(claim.rollout, WORTH[work]),)}
        await store.finish(Outcome(rollout_id=claim.rollout.id, attempt=1, runner="me", **ending))  # type: ignore[arg-type]
        await agent.close()


def reward(rollout: Rollout, value: float) -> Reward:
    return Reward(rollout_id=rollout.id, value=value)


async def said(agent: openai.AsyncOpenAI, text: str) -> str:
    answer = await agent.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content or ""


async def replayed(store: HttpStore, order: Callable[[str], str]) -> dict[str, Member]:
    """One rollout and three alternatives of its second call, by id."""
    await store.queue([Rollout(id="r", group_id="g", mode="train", run="n", step=1)])
    await play(store, order)
    calls: dict[str, list[Call]] = defaultdict(list)
    calls["r"] += await store.calls(["r"])
    more = alternatives([await store.rollout("r")], calls, C3, replays=3, seed=0)
    assert [(a.id, a.replay.calls if a.replay else 0) for a in more] == [(f"r-c1-a{n}", 1) for n in range(3)]
    await store.queue(more)
    await play(store, order)
    finished = await asyncio.gather(*(store.rollout(name) for name in ("r", *(a.id for a in more))))
    return {m.rollout.id: m for m in await read_members(store, finished, max_tokens=None)}


async def test_a_call_is_compared_with_what_else_was_sampled_from_its_context(store: HttpStore) -> None:
    members = await replayed(store, lambda plan: f"do {plan}")
    assert not any(member.incomplete for member in members.values())
    views = [view(m.rollout, m.calls, m.rewards) for m in members.values()]
    assert [len(one.calls) for one in views] == [2, 1, 1, 1]
    advantages, _ = assign(C3, [views])
    # Rewards 0.5, 1, 0, 0 of the work from one plan: each minus the mean of the others. The plan was made once.
    expected = [0.0, 0.5 - 1 / 3, 1.0 - 0.5 / 3, 0.0 - 1.5 / 3, 0.0 - 1.5 / 3]
    assert [advantages[call.id].value for one in views for call in one.calls] == pytest.approx(expected)


async def test_replayed_tokens_are_context_and_are_never_trained(store: HttpStore) -> None:
    members = await replayed(store, lambda plan: f"do {plan}")
    calls = [call for name, member in members.items() if name != "r" for call in member.calls]
    trained = {span.call_id for name, m in members.items() if name != "r" for t in m.transitions for span in t.spans}
    assert trained == {call.id for call in calls if not call.context}
    assert len(trained) == 3


async def test_an_agent_that_is_not_deterministic_is_refused_with_the_reason(store: HttpStore) -> None:
    moods = itertools.count()
    members = await replayed(store, lambda plan: f"do {plan}, mood {next(moods)}")
    assert not members.pop("r").incomplete
    for member in members.values():
        assert member.rollout.status == "incomplete"
        assert "replay diverged at call 2 (the first 1 are answered as in rollout r)" in member.incomplete[0]
        assert "expected messages[0] = " in member.incomplete[0]


async def test_only_later_calls_of_trained_agents_are_replayed(store: HttpStore) -> None:
    await store.queue([Rollout(id="r", group_id="g", mode="train")])
    await play(store, lambda plan: f"do {plan}")
    rollout, calls = await store.rollout("r"), {"r": await store.calls(["r"])}
    assert alternatives([rollout], calls, credit_method("c3", agents=["other"]), replays=2, seed=0) == []
    assert alternatives([rollout], {"r": calls["r"][:1]}, C3, replays=2, seed=0) == []
    again = alternatives([rollout], calls, C3, replays=2, seed=0)
    assert [a.sampling.seed for a in again] == [
        a.sampling.seed for a in alternatives([rollout], calls, C3, replays=2, seed=0)
    ]
    assert again[0].sampling.seed != again[1].sampling.seed


AGENT = """
import openai

def solve(task):
    client, said = openai.OpenAI(), []
    for number in range(3):
        asked = [{"role": "user", "content": f"{task['question']} {number} {said}"}]
        answer = client.chat.completions.create(model="any", messages=asked, max_tokens=4)
        said.append(answer.choices[0].message.content or "")
    return "".join(said)
"""
CONFIG = """
[credit]
method = "c3"
replays = 2
[trainer]
steps = 1
tasks_per_step = 1
rollouts_per_task = 3
"""


def test_a_run_samples_the_alternatives_and_trains_with_them(
    tmp_path: Path, tiny_folder: Path, base_config: str
) -> None:
    (tmp_path / "model").symlink_to(tiny_folder)
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "reward.py").write_text("def score(task, result):\n    return len(set(result))\n")
    (tmp_path / "train.toml").write_text(base_config + CONFIG)
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name}))
    done = subprocess.run(
        [sys.executable, "-m", "leyden", "train", "train.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    step = json.loads((tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()[1])
    assert (step["rollouts"], step["incomplete"]) == (3 + 3 * 2, 0)


def settings(**credit: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"path": "m"},
            "agent": {"function": "a.py:solve"},
            "reward": {"function": "r.py:score"},
            "tasks": {"train": "t.jsonl", "heldout": "h.jsonl"},
            "credit": credit.pop("credit"),
            **credit,
        }
    )


def test_replays_are_for_c3_alone_and_remembered_rollouts_for_the_local_backend() -> None:
    assert configured_method(settings(credit={"method": "c3", "replays": 2})).name == "c3"
    with pytest.raises(BadConfig, match=r"credit.replays = 2 is for credit.method = 'c3' on the local backend"):
        configured_method(settings(credit={"method": "gigpo", "replays": 2}))
    with pytest.raises(BadConfig, match="'task_regression' remembers rollouts from step to step"):
        configured_method(settings(credit={"method": "task_regression"}, trainer={"backend": "verl"}))
