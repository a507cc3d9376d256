"""What every store is asked to do: rollouts queued, claimed, their calls made and captured, finished, waited for, read.

A `Keeper` says each of these verbs in the words of one store; the rest is the same for all. One stub policy (of
`gateway_parts`) answers all model calls at once, so what is measured is what capture and the store cost.
"""

import asyncio
import gc
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any, Protocol

import aiohttp

SHAPES = ((32, 6), (100, 10), (1000, 3), (512, 20))
"""Rollouts in flight, calls of each."""
WAITS = 40
INGEST = (64, 8)
"""The same, of calls that are recorded without being made."""
PROMPT = [(place * 104729) % 150000 for place in range(300)]
SAMPLED = [(place * 7919) % 150000 for place in range(50)]
LOGPROBS = [-(place * 37 % 1000) / 1024 for place in range(50)]
QUESTION = " ".join(f"w{place * 7919 % 9973}" for place in range(200))
ANSWER = " ".join(f"word{place}" for place in range(50))
"""A call: a prompt of 300 tokens, the first of them its own, and an answer of 50 with log probabilities."""


class Keeper(Protocol):
    """One store. `claim` gives what `call`, `record` and `finish` are then told."""

    async def queue(self, number: int) -> list[str]: ...
    async def claim(self, limit: int) -> list[Any]: ...
    async def call(self, claimed: Any, question: str) -> None:
        """Ask the model, so that the store has the call with its tokens, in its own way of capture."""
        ...

    async def record(self, claimed: Any, prompt: list[int]) -> None:
        """Write a call that somebody captured, with the store's own verb for it."""
        ...

    async def finish(self, claimed: Any) -> str:
        """Reward and end it."""
        ...

    async def wait(self, rollout_ids: Sequence[str]) -> int:
        """How many have ended, once one of them has, or at the end of its patience."""
        ...

    async def read(self, rollout_ids: Sequence[str]) -> int:
        """Fetch tokens, log probabilities and rewards as a trainer does; how many calls that were."""
        ...


async def ask(session: aiohttp.ClientSession, url: str, question: str, **headers: str) -> dict[str, Any]:
    """The agent's model call, which asks for tokens at every door."""
    body = {"model": "stub", "messages": [{"role": "user", "content": question}], "logprobs": True}
    async with session.post(url, json={**body, "return_token_ids": True}, headers=headers) as answer:
        answer.raise_for_status()
        return await answer.json()


async def end_to_end(keeper: Keeper, rollouts: int, calls: int) -> dict[str, float]:
    """Queue, run, wait for and read rollouts that are all in flight at once."""
    gc.collect()
    begun = time.perf_counter()
    ids, claimed = await _claimed(keeper, rollouts)
    running = time.perf_counter()
    await asyncio.gather(*(_calls(keeper, one, number, calls) for number, one in enumerate(claimed)))
    ran = time.perf_counter()
    await asyncio.gather(*(keeper.finish(one) for one in claimed))
    while await keeper.wait(ids) < rollouts:
        pass
    read = await keeper.read(ids)
    assert read == rollouts * calls, f"{read} calls of {rollouts} x {calls} were read"
    return {"rollouts_s": rollouts / (time.perf_counter() - begun), "calls_s": rollouts * calls / (ran - running)}


async def _claimed(keeper: Keeper, rollouts: int) -> tuple[list[str], list[Any]]:
    ids = await keeper.queue(rollouts)
    claimed: list[Any] = []
    while len(claimed) < rollouts:
        claimed += await keeper.claim(rollouts - len(claimed))
    return ids, claimed


async def _calls(keeper: Keeper, claimed: Any, number: int, calls: int) -> None:
    for place in range(calls):
        await keeper.call(claimed, f"{number} {place} {QUESTION}")


async def records_s(keeper: Keeper, rollouts: int, calls: int) -> float:
    """Calls recorded a second, of rollouts that record side by side."""
    ids, claimed = await _claimed(keeper, rollouts)

    async def records(number: int, one: Any) -> None:
        for place in range(calls):
            await keeper.record(one, [number * 1000 + place, *PROMPT])

    begun = time.perf_counter()
    await asyncio.gather(*(records(number, one) for number, one in enumerate(claimed)))
    rate = rollouts * calls / (time.perf_counter() - begun)
    await asyncio.gather(*(keeper.finish(one) for one in claimed))
    assert await keeper.read(ids) == rollouts * calls
    return rate


async def wait_ms(keeper: Keeper) -> list[float]:
    """From each finish to the return of the trainer that waits for it; one rollout after the other.

    Who has no wait that lasts (v1's trainer sleeps for a second between looks, 0.3.0's for five) asks without a pause.
    """
    waited: list[float] = []
    for _ in range(WAITS):
        ids = await keeper.queue(1)
        (claimed,) = await keeper.claim(1)
        waiting = asyncio.create_task(keeper.wait(ids))
        await keeper.record(claimed, PROMPT)
        begun = time.perf_counter()
        await keeper.finish(claimed)
        while not await waiting:
            waiting = asyncio.create_task(keeper.wait(ids))
        waited.append((time.perf_counter() - begun) * 1000)
    return waited


async def measure(keeper: Keeper, shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, Any]:
    """{"rows": [[rollouts, calls, rollouts_s, calls_s]], "records_s", "wait_ms": [median, p95], "calls": how many}."""
    rows: list[list[float]] = []
    recorded = 0
    await end_to_end(keeper, 8, 2)
    for rollouts, calls in shapes:
        taken = [await end_to_end(keeper, rollouts, calls) for _ in range(rounds)]
        recorded += rollouts * calls * rounds
        best = [statistics.median(one[name] for one in taken) for name in ("rollouts_s", "calls_s")]
        rows.append([rollouts, calls, *best])
    ingest = statistics.median([await records_s(keeper, *INGEST) for _ in range(rounds)])
    recorded += INGEST[0] * INGEST[1] * rounds
    waited = sorted(await wait_ms(keeper))
    tail = waited[int(len(waited) * 0.95)]
    waits = [statistics.median(waited), tail]
    return {"rows": rows, "records_s": ingest, "wait_ms": waits, "calls": recorded + WAITS + 16}


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
