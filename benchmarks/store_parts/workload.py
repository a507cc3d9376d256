"""What every store is asked to do: rollouts queued, claimed, their calls recorded, finished, and waited for.

A `Keeper` says each of these verbs in the words of one store; the rest is the same for all.
"""

import asyncio
import gc
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any, Protocol

SHAPES = ((32, 6), (100, 10), (1000, 3), (512, 20))
"""Rollouts in flight, calls of each."""
WAITS = 40
PROMPT = [(place * 104729) % 150000 for place in range(300)]
SAMPLED = [(place * 7919) % 150000 for place in range(50)]
LOGPROBS = [-(place * 37 % 1000) / 1024 for place in range(50)]
QUESTION = " ".join(f"w{place * 7919 % 9973}" for place in range(200))
ANSWER = " ".join(f"word{place}" for place in range(50))
"""A call: a prompt of 300 tokens, the first of them its own, and an answer of 50 with log probabilities."""


class Keeper(Protocol):
    """One store. `claim` gives what `record` and `finish` are then told."""

    async def queue(self, number: int) -> list[str]: ...
    async def claim(self, limit: int) -> list[Any]: ...
    async def record(self, claimed: Any, prompt: list[int]) -> None: ...
    async def finish(self, claimed: Any) -> str: ...
    async def wait(self, rollout_ids: Sequence[str]) -> int:
        """How many have ended, once one of them has, or at the end of its patience."""
        ...


async def end_to_end(keeper: Keeper, rollouts: int, calls: int) -> dict[str, float]:
    """Queue, run and wait for rollouts that are all in flight at once."""
    gc.collect()
    begun = time.perf_counter()
    ids = await keeper.queue(rollouts)
    claimed: list[Any] = []
    while len(claimed) < rollouts:
        claimed += await keeper.claim(rollouts - len(claimed))
    running = time.perf_counter()
    await asyncio.gather(*(_calls(keeper, one, number, calls) for number, one in enumerate(claimed)))
    ran = time.perf_counter()
    await asyncio.gather(*(keeper.finish(one) for one in claimed))
    while await keeper.wait(ids) < rollouts:
        pass
    return {"rollouts_s": rollouts / (time.perf_counter() - begun), "calls_s": rollouts * calls / (ran - running)}


async def _calls(keeper: Keeper, claimed: Any, number: int, calls: int) -> None:
    for place in range(calls):
        await keeper.record(claimed, [number * 1000 + place, *PROMPT])


async def wait_ms(keeper: Keeper) -> list[float]:
    """From each finish to the return of the trainer that waits for it; one rollout after the other."""
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
    """{"rows": [[rollouts, calls, rollouts_s, calls_s]], "wait_ms": [median, p95], "calls": how many were recorded}."""
    rows: list[list[float]] = []
    recorded = 0
    await end_to_end(keeper, 8, 2)
    for rollouts, calls in shapes:
        taken = [await end_to_end(keeper, rollouts, calls) for _ in range(rounds)]
        recorded += rollouts * calls * rounds
        best = [statistics.median(one[name] for one in taken) for name in ("rollouts_s", "calls_s")]
        rows.append([rollouts, calls, *best])
    waited = sorted(await wait_ms(keeper))
    tail = waited[int(len(waited) * 0.95)]
    return {"rows": rows, "wait_ms": [statistics.median(waited), tail], "calls": recorded + WAITS + 16}


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
