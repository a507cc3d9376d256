"""The parent: claims rollouts, has workers run them, grades the results, and finishes them in the store.

A failed rollout is data. Only when infrastructure failed (a worker, server or network) is there a new attempt.
"""

import asyncio
import contextlib
import ctypes
import logging
import sys
from collections.abc import Callable
from typing import Literal

from leyden.errors import LeaseLost, LeydenError, NotFound, Unreachable
from leyden.runner.grading import Grader
from leyden.runner.messages import Done, Job, Setup
from leyden.runner.options import RunnerOptions
from leyden.runner.workers import Workers
from leyden.store.protocol import Store
from leyden.types import Claim, Outcome, Reward, Rollout

__all__ = ["Runner"]

_log = logging.getLogger("leyden.runner")
CLAIM_WAIT_S = 20.0
RETRY_S = 1.0
_PR_SET_DUMPABLE = 4


class Runner:
    """Any number of runners may work on one store. `on_finished` hears of every rollout that this one finished."""

    def __init__(
        self, store: Store, options: RunnerOptions, *, on_finished: Callable[[Rollout], None] | None = None
    ) -> None:
        self._store = store
        self._options = options
        self._on_finished = on_finished
        self._grader = Grader(options.reward) if options.reward else None
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._workers = Workers(self._setup())
        self._slots = asyncio.Semaphore(options.concurrency)
        self._told: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and run until `stop` is set, then let what runs end within the grace and give back the rest.

        Raises:
            BadConfig: the agent or the reward function cannot be loaded.
            Unreachable: the server was away for longer than `patience_s`.
        """
        _hide_memory()
        await self._workers.start()
        heart = asyncio.create_task(self._heartbeats())
        stopping = asyncio.create_task(stop.wait())
        try:
            await self._claims(stopping)
            if self._running:
                await asyncio.wait(self._running.values(), timeout=self._options.grace_s)
        finally:
            stopping.cancel()
            heart.cancel()
            await self._give_back()
            await self._workers.stop()

    def _setup(self) -> Setup:
        options = self._options
        return Setup(
            agent=options.agent,
            server_url=options.server_url,
            models=options.routing.models,
            passthrough=options.routing.passthrough,
            shared=options.isolation == "shared",
            concurrency=options.concurrency,
        )

    async def _claims(self, stopping: asyncio.Task[Literal[True]]) -> None:
        away_since: float | None = None
        loop = asyncio.get_running_loop()
        while not stopping.done():
            slot = asyncio.ensure_future(self._slots.acquire())
            await asyncio.wait({slot, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                slot.cancel()
                return
            self._slots.release()
            claiming = asyncio.ensure_future(self._claim())
            await asyncio.wait({claiming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not claiming.done():
                claiming.cancel()  # what it may have claimed comes back when its lease runs out
                return
            try:
                claims = claiming.result()
            except Unreachable:
                away_since = away_since or loop.time()
                if loop.time() - away_since > self._options.patience_s:
                    raise
                await asyncio.wait({stopping}, timeout=RETRY_S)
                continue
            away_since = None
            for claim in claims:
                self._begin(claim)

    async def _claim(self) -> list[Claim]:
        free = self._options.concurrency - len(self._running)
        options = self._options
        return await self._store.claim(options.name, limit=max(1, free), lease_s=options.lease_s, wait_s=CLAIM_WAIT_S)

    def _begin(self, claim: Claim) -> None:
        key = (claim.rollout.id, claim.rollout.attempt)
        task = self._running[key] = asyncio.create_task(self._one(claim))
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _one(self, claim: Claim) -> None:
        """One attempt, from the agent to the store."""
        rollout = claim.rollout
        async with self._slots:
            done = await self._run_agent(claim)
        try:
            finished = await self._store.finish(await self._outcome(rollout, done))
        except (LeaseLost, NotFound) as error:
            self._tell(f"the result of rollout {rollout.id} was dropped: {error}")
            return
        except LeydenError as error:
            _log.error("rollout %s could not be finished, its lease will run out: %s", rollout.id, error)
            return
        if finished.finished and self._on_finished is not None:
            self._on_finished(finished)

    async def _run_agent(self, claim: Claim) -> Done:
        rollout = claim.rollout
        job = Job(
            rollout_id=rollout.id,
            attempt=rollout.attempt,
            task=rollout.task,
            key=claim.key,
            gateway=rollout.mode != "trace",
            timeout_s=self._options.timeout_s,
        )
        return await self._workers.run(job)

    async def _outcome(self, rollout: Rollout, done: Done) -> Outcome:
        ending = Outcome(
            rollout_id=rollout.id,
            attempt=rollout.attempt,
            runner=self._options.name,
            status="succeeded",
            result=done.result,
            failure=done.failure,
            incomplete=done.losses,
            call_ids=done.call_ids,
        )
        if done.status in ("lost", "incomplete"):
            self._tell(f"rollout {rollout.id} is {done.status}: {done.failure.message if done.failure else ''}")
            reasons = (done.failure.message,) if done.failure and done.status == "incomplete" else ()
            return ending.model_copy(update={"status": done.status, "incomplete": (*reasons, *done.losses)})
        if done.status == "failed":
            reward = Reward(
                rollout_id=rollout.id,
                attempt=rollout.attempt,
                value=self._options.on_failure,
                name="on_failure",
                source="failure",
            )
            self._tell(f"an agent failed: {done.failure.message if done.failure else ''}")
            return ending.model_copy(update={"status": "failed", "rewards": (reward,)})
        return await self._graded(rollout, ending)

    async def _graded(self, rollout: Rollout, ending: Outcome) -> Outcome:
        if self._grader is None:
            return ending
        calls = await self._store.calls([rollout.id]) if self._grader.wants_calls else []
        graded = await self._grader.grade(rollout, ending.result, calls)
        if isinstance(graded, Reward):
            return ending.model_copy(update={"rewards": (graded,)})
        self._tell(f"rollout {rollout.id}: {graded.message}\n{graded.traceback or ''}".rstrip(), once=graded.message)
        incomplete = (*ending.incomplete, graded.message)
        return ending.model_copy(update={"status": "incomplete", "failure": graded, "incomplete": incomplete})

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._options.lease_s / 3)
            held = list(self._running)
            if not held:
                continue
            try:
                await self._renew(held)
            except LeydenError as error:  # the leases last for two more tries
                self._tell(str(error))

    async def _renew(self, held: list[tuple[str, int]]) -> None:
        kept = await self._store.heartbeat(self._options.name, held, lease_s=self._options.lease_s)
        for key in held:
            task = self._running.get(key)
            if key[0] not in kept and task is not None:  # finished meanwhile, or another runner has it now
                await self._cancel_if_lost(key, task)

    async def _cancel_if_lost(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        rollout = await self._store.rollout(key[0])
        if rollout.runner != self._options.name or rollout.attempt != key[1] or rollout.status == "queued":
            self._tell(f"the lease of rollout {key[0]} was lost; its run is ended")
            task.cancel()

    async def _give_back(self) -> None:
        """End what still runs, and release it as if it had not been claimed."""
        left = dict(self._running)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        if left:
            with contextlib.suppress(LeydenError):  # the server is away too: the leases will run out
                await self._store.release(self._options.name, list(left))

    def _tell(self, text: str, *, once: str | None = None) -> None:
        """Log each kind of trouble once, not for each of a thousand rollouts."""
        kind = (once or text.partition(":")[2] or text)[:100]
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("%s (such are shown once)", text)


def _hide_memory() -> None:
    """Keep other processes of the same user, the workers above all, from reading our key out of /proc (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
