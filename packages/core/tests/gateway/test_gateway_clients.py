"""Clients that leave before their answer is there, and many that come at once."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call, Endpoint, Outcome, Reward, Rollout

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[BackgroundServer, HttpStore]]:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        yield server, store
        await store.close()


async def agents(server: BackgroundServer, store: HttpStore, policy: FakeServer, n: int) -> list[openai.AsyncOpenAI]:
    await store.publish(Endpoint(url=policy.url, model="fake", version=5))
    await store.queue([Rollout(id=f"r{number}", mode="train") for number in range(n)])
    claims = await store.claim("me", limit=n, lease_s=600)
    by_id = sorted(claims, key=lambda claim: int(claim.rollout.id[1:]))
    return [
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=claim.key or "", max_retries=0, timeout=60)
        for claim in by_id
    ]


async def finished(store: HttpStore, call_id: str) -> Call:
    """The call once it has a terminal record, for which `finish` waits."""
    rewards = (Reward(rollout_id="r0", value=1),)
    outcome = Outcome(
        rollout_id="r0", attempt=1, runner="me", status="succeeded", rewards=rewards, call_ids=(call_id,), wait_s=60
    )
    await store.finish(outcome)
    return await store.call(call_id)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_on_record_as_cancelled_and_the_policy_hears_of_it(
    server: tuple[BackgroundServer, HttpStore], stream: bool
) -> None:
    never = threading.Event()
    with FakeServer([Reply("one two three", delay=never, delay_after=3 if stream else 0)]) as policy:
        (agent,) = await agents(*server, policy, 1)
        headers = {"X-Leyden-Call": "left"}
        asking = asyncio.create_task(
            agent.chat.completions.create(model="m", messages=HELLO, stream=stream, extra_headers=headers)
        )
        if stream:
            chunks = await asking
            assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "one"]
            await chunks.close()
        else:
            await asyncio.to_thread(policy.wait_requests, 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        call = await finished(server[1], "left")
        assert (call.status, call.answer) == ("cancelled", None)
        assert bool(call.attempts[0].choices) is stream
        await asyncio.to_thread(policy.wait_disconnects, 1)
        await agent.close()


async def test_many_agents_at_once_get_their_own_answers_on_their_own_records(
    server: tuple[BackgroundServer, HttpStore],
) -> None:
    def echo(body: dict, _headers: object) -> Reply:
        return Reply(f"to {body['messages'][-1]['content']}")

    with FakeServer(echo) as policy:
        clients = await agents(*server, policy, 32)

        async def talk(number: int) -> list[str | None]:
            told: list[str | None] = []
            for turn in range(4):
                messages = [{"role": "user", "content": f"{number}.{turn}"}]
                answer = await clients[number].chat.completions.create(model="m", messages=messages)
                told.append(answer.choices[0].message.content)
            return told

        told = await asyncio.gather(*map(talk, range(32)))
        assert told == [[f"to {number}.{turn}" for turn in range(4)] for number in range(32)]
        calls = await server[1].calls([f"r{number}" for number in range(32)])
        stored = [(call.rollout_id, call.answer.choices[0].message["content"]) for call in calls if call.answer]
        assert stored == [(f"r{number}", f"to {number}.{turn}") for number in range(32) for turn in range(4)]
        await asyncio.gather(*(client.close() for client in clients))
