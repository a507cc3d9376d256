"""agentlightning 0.3.0's stores under the workload: `memory`, in this process, or `server`, its client-server store.

argv: kind, the policy's URL, shapes as JSON, rounds, and the server's URL. Prints the figures as one line of JSON.
`serve PORT` is the server's own process. Its agents ask the policy themselves, and the tracer sends spans to the store:
the cheaper of its ways of capture, as its LLM proxy (see `make bench-gateway`) costs ten times as much a call.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import agentlightning as agl  # pyright: ignore[reportMissingImports]  # it is in the peers' environment only
import aiohttp
import workload
from agentlightning.types import EnqueueRolloutRequest, Span  # pyright: ignore[reportMissingImports]

PATIENCE_S = 0.1  # its client allows no more


class LightningKeeper:
    """A call is a span with the attributes that its tracer gives one; rewards are spans too."""

    pause_s = 5.0  # of its trainer: AgentModeDaemon, in agentlightning/verl/daemon.py

    def __init__(self, store: Any, agent: aiohttp.ClientSession, policy: str) -> None:
        self._store = store
        self._agent = agent
        self._policy = policy

    async def queue(self, number: int) -> list[str]:
        wanted = [EnqueueRolloutRequest(input={"question": place}, mode="train") for place in range(number)]
        return [one.rollout_id for one in await self._store.enqueue_many_rollouts(wanted)]

    async def claim(self, limit: int) -> list[Any]:
        claimed = await self._store.dequeue_many_rollouts(limit=limit, worker_id="benchmark")
        return [[one.rollout_id, one.attempt.attempt_id, 0] for one in claimed]

    async def call(self, claimed: Any, question: str) -> None:
        answer = await workload.ask(self._agent, f"{self._policy}/chat/completions", question)
        (choice,) = answer["choices"]
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        tokens = (answer["prompt_token_ids"], choice["token_ids"], logprobs)
        claimed[2] = await self._store.get_next_span_sequence_id(claimed[0], claimed[1])
        await self._span(claimed, question, choice["message"]["content"], tokens)

    async def record(self, claimed: Any, prompt: list[int]) -> None:
        claimed[2] += 1  # without asking the store for the number, as its tracer does
        await self._span(claimed, workload.QUESTION, workload.ANSWER, (prompt, workload.SAMPLED, workload.LOGPROBS))

    async def _span(self, claimed: Any, question: str, answer: str, tokens: tuple[list, list, list]) -> None:
        attributes = {
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": question,
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": answer,
            "prompt_token_ids": tokens[0],
            "response_token_ids": tokens[1],
            "logprobs.content": tokens[2],
        }
        await self._add(claimed, "openai.chat.completion", attributes)

    async def finish(self, claimed: Any) -> str:
        claimed[2] += 1
        await self._add(claimed, "agentlightning.annotation", {"agentlightning.reward.0.value": 1.0})
        await self._store.update_attempt(claimed[0], claimed[1], status="succeeded")
        return claimed[0]

    async def _add(self, claimed: Any, name: str, attributes: dict[str, Any]) -> None:
        span = Span.from_attributes(
            attributes=attributes, rollout_id=claimed[0], attempt_id=claimed[1], sequence_id=claimed[2], name=name
        )
        await self._store.add_span(span)

    async def wait(self, rollout_ids: Sequence[str]) -> int:
        ended = await self._store.wait_for_rollouts(rollout_ids=list(rollout_ids), timeout=PATIENCE_S)
        return len(ended)

    async def read(self, rollout_ids: Sequence[str]) -> int:
        pages = await asyncio.gather(*(self._store.query_spans(one, attempt_id="latest") for one in rollout_ids))
        return sum("logprobs.content" in span.attributes for page in pages for span in page)


async def _measured(store: Any, policy: str, shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, Any]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as agent:
        return await workload.measure(LightningKeeper(store, agent, policy), shapes, rounds)


async def _memory(policy: str, shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    before = workload.peak_mb()
    figures = await _measured(agl.InMemoryLightningStore(), policy, shapes, rounds)
    figures["memory"] = (workload.peak_mb() - before) * 2**20 / figures["calls"]
    print(json.dumps(figures), flush=True)


async def _server(policy: str, shapes: Sequence[tuple[int, int]], rounds: int, url: str) -> None:
    client = agl.LightningStoreClient(url)
    figures = await _measured(client, policy, shapes, rounds)
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
        asyncio.run(_memory(rest[0], json.loads(rest[1]), int(rest[2])))
    else:
        asyncio.run(_server(rest[0], json.loads(rest[1]), int(rest[2]), rest[3]))
