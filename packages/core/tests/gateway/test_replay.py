"""Rollouts that begin with another's answers: through the real gateway, with the openai client as the agent."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Outcome, Replay, Reward, Rollout

REPLIES = [Reply("plan"), Reply("work"), Reply("another plan's work")]


@dataclass
class Replaying:
    """Rollout "first" has run two calls; "again" replays one of them."""

    store: HttpStore
    policy: FakeServer
    again: openai.AsyncOpenAI

    async def ended(self, status: str = "succeeded") -> Rollout:
        rewards = (Reward(rollout_id="again", value=1),)
        outcome = Outcome(rollout_id="again", attempt=1, runner="me", status=status, rewards=rewards)  # type: ignore[arg-type]
        return await self.store.finish(outcome)


async def ask(agent: openai.AsyncOpenAI, *said: str, stream: bool = False) -> str:
    messages = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(said)]
    if not stream:
        answer = await agent.chat.completions.create(model="m", messages=messages, temperature=0.5)  # type: ignore[arg-type]
        return answer.choices[0].message.content or ""
    chunks = await agent.chat.completions.create(model="m", messages=messages, stream=True)  # type: ignore[arg-type]
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])


@pytest.fixture
def stream() -> bool:
    return False


@pytest.fixture
async def replaying(tmp_path: Path, stream: bool) -> AsyncIterator[Replaying]:
    with FakeServer(REPLIES) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="fake", version=5))
        first = Rollout(id="first", mode="train")
        await store.queue([first, Rollout(id="again", mode="train", replay=Replay(rollout_id="first", calls=1))])
        keys = {claim.rollout.id: claim.key or "" for claim in await store.claim("me", limit=2, lease_s=600)}
        agents = {
            name: openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
            for name, key in keys.items()
        }
        assert await ask(agents["first"], "task", stream=stream) == "plan"
        assert await ask(agents["first"], "task", "plan", "go", stream=stream) == "work"
        yield Replaying(store, policy, agents["again"])
        for agent in agents.values():
            await agent.close()
        await store.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_recorded_answers_come_first_and_then_the_policy_samples(replaying: Replaying, stream: bool) -> None:
    assert await ask(replaying.again, "task", stream=stream) == "plan"
    assert len(replaying.policy.requests) == 2
    assert await ask(replaying.again, "task", "plan", "go", stream=stream) == "another plan's work"
    assert len(replaying.policy.requests) == 3
    (replayed, sampled), (source, _) = (
        await replaying.store.calls(["again"]),
        await replaying.store.calls(["first"]),
    )
    assert replayed.context
    assert not sampled.context
    assert replayed.request is not None
    assert replayed.request.sent == {"replayed": source.id}
    assert replayed.answer is not None
    assert source.answer is not None
    assert replayed.answer.choices == source.answer.choices
    assert (replayed.answer.prompt_token_ids, replayed.answer.version) == (source.answer.prompt_token_ids, 5)
    assert (await replaying.ended()).status == "succeeded"


async def test_an_agent_that_asks_otherwise_is_refused_and_its_rollout_incomplete(replaying: Replaying) -> None:
    expected = (
        r"replay diverged at call 1 \(.* rollout first\): expected messages\[0\] = .*'task'.*, got .*'task at noon'"
    )
    with pytest.raises(openai.BadRequestError, match=expected):
        await ask(replaying.again, "task at noon")
    assert len(replaying.policy.requests) == 2
    ended = await replaying.ended("failed")
    assert ended.status == "incomplete"
    assert "replay diverged at call 1" in ended.incomplete[0]


async def test_other_sampling_than_was_asked_for_is_another_request(replaying: Replaying) -> None:
    with pytest.raises(openai.BadRequestError, match=r"replay diverged at call 1 .* asked = "):
        await replaying.again.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "task"}], temperature=0.7
        )


async def test_a_replay_of_more_calls_than_there_were_is_refused(replaying: Replaying) -> None:
    await replaying.store.queue([Rollout(id="long", mode="train", replay=Replay(rollout_id="first", calls=3))])
    (claim,) = await replaying.store.claim("me", limit=1, lease_s=600)
    agent = openai.AsyncOpenAI(base_url=str(replaying.again.base_url), api_key=claim.key or "", max_retries=0)
    await ask(agent, "task")
    await ask(agent, "task", "plan", "go")
    with pytest.raises(openai.BadRequestError, match="expected at most 2 calls with an answer, got call 3"):
        await ask(agent, "task", "plan", "go", "work", "more")
    await agent.close()
