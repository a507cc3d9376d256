"""Leyden's store under the workload: over HTTP to `leyden serve`, which has it on disk. Its gateway captures calls.

argv: URL, operator's key, shapes as JSON, rounds. Prints the figures as one line of JSON.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

import aiohttp
import workload

from leyden.client import HttpStore
from leyden.store.protocol import Store
from leyden.types import Attempt, Call, Choice, Claim, Outcome, Request, Reward, Rollout


class OurKeeper:
    """Each record is sent by itself, as the peers' spans are; what gathers records in batches is not used."""

    pause_s = 0.0

    def __init__(self, store: Store) -> None:
        self._store = store

    async def queue(self, number: int) -> list[str]:
        rollouts = [Rollout(task={"question": place}, mode="train") for place in range(number)]
        await self._store.queue(rollouts)
        return [rollout.id for rollout in rollouts]

    async def claim(self, limit: int) -> list[Claim]:
        return await self._store.claim("benchmark", limit=limit, lease_s=3600)

    async def record(self, claimed: Claim, prompt: list[int]) -> None:
        choice = Choice(
            message={"role": "assistant", "content": workload.ANSWER},
            finish_reason="stop",
            token_ids=tuple(workload.SAMPLED),
            logprobs=tuple(workload.LOGPROBS),
        )
        attempt = Attempt(
            number=0,
            status="ok",
            started_at=1.0,
            latency_ms=1.0,
            version=1,
            prompt_token_ids=tuple(prompt),
            choices=(choice,),
        )
        call = Call(
            rollout_id=claimed.rollout.id,
            attempt=claimed.rollout.attempt,
            captured_by=("gateway",),
            request=Request(messages=({"role": "user", "content": workload.QUESTION},)),
            attempts=(attempt,),
        )
        await self._store.record([call])

    async def finish(self, claimed: Claim) -> str:
        rollout = claimed.rollout
        reward = Reward(rollout_id=rollout.id, attempt=rollout.attempt, value=1.0)
        outcome = Outcome(
            rollout_id=rollout.id, attempt=rollout.attempt, runner="benchmark", status="succeeded", rewards=(reward,)
        )
        ended = await self._store.finish(outcome)
        assert ended.status == "succeeded", ended.incomplete
        return ended.id

    async def wait(self, rollout_ids: Sequence[str]) -> int:
        return len(await self._store.wait(rollout_ids, timeout_s=10.0))

    async def read(self, rollout_ids: Sequence[str]) -> int:
        calls = await self._store.calls(rollout_ids)
        rewards = await self._store.rewards(rollout_ids)
        assert len(rewards) == len(rollout_ids)
        return sum(call.answer is not None and bool(call.answer.choices[0].logprobs) for call in calls)


class GatewayKeeper(OurKeeper):
    """Its model calls go through the gateway, with the rollout's own key."""

    def __init__(self, store: Store, agent: aiohttp.ClientSession, url: str) -> None:
        super().__init__(store)
        self._agent = agent
        self._url = f"{url}/v1/chat/completions"

    async def call(self, claimed: Claim, question: str) -> None:
        await workload.ask(self._agent, self._url, question, Authorization=f"Bearer {claimed.key}")


async def _main(url: str, key: str, shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    store = HttpStore(url, key)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as agent:
        figures = await workload.measure(GatewayKeeper(store, agent, url), shapes, rounds)
    await store.close()
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])))
