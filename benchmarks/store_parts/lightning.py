"""agentlightning 0.3.0's stores under the workload: `memory`, in this process, or `server`, its client-server store.

argv: kind, shapes as JSON, rounds. Prints the figures as one line of JSON. `serve PORT` is the server's own process.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import agentlightning as agl  # pyright: ignore[reportMissingImports]  # it is in the peers' environment only
import workload
from agentlightning.types import EnqueueRolloutRequest, Span  # pyright: ignore[reportMissingImports]

PATIENCE_S = 0.1  # its client allows no more


class LightningKeeper:
    """A call is a span with the attributes that its tracer gives one; rewards are spans too."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def queue(self, number: int) -> list[str]:
        wanted = [EnqueueRolloutRequest(input={"question": place}, mode="train") for place in range(number)]
        return [one.rollout_id for one in await self._store.enqueue_many_rollouts(wanted)]

    async def claim(self, limit: int) -> list[Any]:
        claimed = await self._store.dequeue_many_rollouts(limit=limit, worker_id="benchmark")
        return [[one.rollout_id, one.attempt.attempt_id, 0] for one in claimed]

    async def record(self, claimed: Any, prompt: list[int]) -> None:
        attributes = {
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": workload.QUESTION,
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": workload.ANSWER,
            "prompt_token_ids": prompt,
            "response_token_ids": workload.SAMPLED,
            "logprobs.content": workload.LOGPROBS,
        }
        await self._add(claimed, "openai.chat.completion", attributes)

    async def finish(self, claimed: Any) -> str:
        await self._add(claimed, "agentlightning.annotation", {"agentlightning.reward.0.value": 1.0})
        await self._store.update_attempt(claimed[0], claimed[1], status="succeeded")
        return claimed[0]

    async def _add(self, claimed: Any, name: str, attributes: dict[str, Any]) -> None:
        claimed[2] += 1  # its tracer asks the store for this number in a request of its own
        span = Span.from_attributes(
            attributes=attributes, rollout_id=claimed[0], attempt_id=claimed[1], sequence_id=claimed[2], name=name
        )
        await self._store.add_span(span)

    async def wait(self, rollout_ids: Sequence[str]) -> int:
        ended = await self._store.wait_for_rollouts(rollout_ids=list(rollout_ids), timeout=PATIENCE_S)
        return len(ended)


async def _memory(shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    before = workload.peak_mb()
    figures = await workload.measure(LightningKeeper(agl.InMemoryLightningStore()), shapes, rounds)
    figures["memory"] = (workload.peak_mb() - before) * 2**20 / figures["calls"]
    print(json.dumps(figures), flush=True)


async def _server(shapes: Sequence[tuple[int, int]], rounds: int, url: str) -> None:
    client = agl.LightningStoreClient(url)
    figures = await workload.measure(LightningKeeper(client), shapes, rounds)
    await client.close()
    print(json.dumps(figures), flush=True)


async def _serve(port: int) -> None:
    store = agl.InMemoryLightningStore(thread_safe=True)
    server = agl.LightningStoreServer(store, host="127.0.0.1", port=port, launch_mode="thread")
    await server.start()
    print("READY", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "serve":
        asyncio.run(_serve(int(rest[0])))
    elif kind == "memory":
        asyncio.run(_memory(json.loads(rest[0]), int(rest[1])))
    else:
        asyncio.run(_server(json.loads(rest[0]), int(rest[1]), rest[2]))
