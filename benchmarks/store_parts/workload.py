"""What every store is asked to do: rollouts queued, claimed, their calls made and captured, finished, waited for, read.

A `Keeper` says each of these verbs in the words of one store; the rest is the same for all. One stub policy (of
`gateway_parts`) answers all model calls at once, so what is measured is what capture and the store cost.
"""

import asyncio
import gc
import random
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any, Protocol

import aiohttp

SHAPES = ((32, 6), (100, 10), (1000, 3), (512, 20))
"""Rollouts in flight, calls of each."""
WAITS, WAITS_WITH_PAUSES = 40, 8
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

    pause_s: float
    """For which its own trainer sleeps before it looks again, after a `wait` that found nothing; 0 if that lasts."""

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
    """From each finish to the trainer that waits for it in its store's own way; one rollout after the other.

    Where that way is to look and to sleep, a finish falls anywhere into the sleep: the place is drawn.
    """
    chance = random.Random(0)
    waited: list[float] = []
    for _ in range(WAITS_WITH_PAUSES if keeper.pause_s else WAITS):
        ids = await keeper.queue(1)
        (claimed,) = await keeper.claim(1)
        trainer = asyncio.create_task(_told(keeper, ids))
        await keeper.record(claimed, PROMPT)
        await asyncio.sleep(chance.uniform(0, keeper.pause_s))
        begun = time.perf_counter()
        await keeper.finish(claimed)
        waited.append((await trainer - begun) * 1000)
    return waited


async def _told(keeper: Keeper, rollout_ids: Sequence[str]) -> float:
    """When the trainer has heard that one ended."""
    while not await keeper.wait(rollout_ids):  # noqa: ASYNC110  # as their trainers do
        await asyncio.sleep(keeper.pause_s)
    return time.perf_counter()


async def at_once_ms(keeper: Keeper) -> list[float]:
    """The same for a trainer that somehow knows of a finish, and looks at the moment at which it was acknowledged.

    That is the best that a store without a wait that lasts could give. No trainer of theirs has it: one that does not
    know would have to ask without a pause, hundreds of times a second, of the process that serves the agents.
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


def _median_and_tail(values: list[float]) -> list[float]:
    return [statistics.median(values), sorted(values)[int(len(values) * 0.95)]]


async def measure(keeper: Keeper, shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, Any]:
    """{"rows": [[rollouts, calls, rollouts_s, calls_s]], "records_s", "wait_ms", "at_once_ms": [median, p95], "calls":
    how many}."""
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
    at_once, waited = await at_once_ms(keeper), await wait_ms(keeper)
    return {
        "rows": rows,
        "records_s": ingest,
        "wait_ms": _median_and_tail(waited),
        "at_once_ms": _median_and_tail(at_once),
        "calls": recorded + len(at_once) + len(waited) + 16,
    }


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
