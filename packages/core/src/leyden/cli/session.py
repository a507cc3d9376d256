"""An agent at work for a server: on tasks, which it queues itself, or on whatever is queued until it is stopped."""

import asyncio
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from leyden.cli.queued import queued_rollouts
from leyden.errors import BadConfig
from leyden.runner.options import RunnerOptions
from leyden.types import Endpoint, Reward, RewardFrom, Rollout

if TYPE_CHECKING:
    from leyden.client import HttpStore

__all__ = ["Place", "Ran", "Session", "opened_place"]


@dataclass(frozen=True)
class Place:
    """Where rollouts are queued and kept: a server, and its database if it is ours for this run alone."""

    url: str
    key: str = dataclasses.field(repr=False)
    store: str | None = None


@dataclass(frozen=True)
class Ran:
    """What became of an agent on tasks. `place.store`, or the server, holds its calls."""

    rollouts: list[Rollout]
    rewards: list[Reward]
    """Those of the rollouts as a whole."""
    place: Place

    @property
    def complete(self) -> list[Rollout]:
        """Those that may be scored: they succeeded, or their agent failed."""
        return [rollout for rollout in self.rollouts if rollout.status in ("succeeded", "failed")]

    @property
    def mean_reward(self) -> float | None:
        """Over the complete rollouts; None where nothing was scored."""
        complete = {rollout.id for rollout in self.complete}
        values = [reward.value for reward in self.rewards if reward.rollout_id in complete]
        return sum(values) / len(complete) if values else None


@contextlib.contextmanager
def opened_place(url: str | None, key: str | None, runs: Path) -> Generator[Place]:
    """The server at `url`, or one of our own for as long as it is needed, with a database in a new folder of `runs`.

    Raises:
        BadConfig: the server's key is not known.
    """
    if url is not None:
        if not key:
            raise BadConfig(f"--server {url} needs its operator's key in LEYDEN_KEY; `leyden serve` says where it is")
        yield Place(url.rstrip("/"), key)
        return
    from leyden.server.serve import BackgroundServer

    folder = runs / time.strftime("run-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    with BackgroundServer(folder / "store.sqlite") as server:
        yield Place(server.url, server.key, str(folder / "store.sqlite"))


class Session:
    """One invocation of `leyden run`, or of `leyden.run`."""

    def __init__(self, options: RunnerOptions, place: Place, endpoint: Endpoint | None) -> None:
        self._options = dataclasses.replace(options, server_url=place.url)
        self._place = place
        self._endpoint = endpoint
        self._signals: list[signal.Signals] = []
        self._stop = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def work(self) -> None:
        """Run what is queued until a signal comes."""
        async with self._opened() as store:
            await self._ended(self._begun(store))

    async def run(self, tasks: Sequence[JsonValue], *, tries: int, reward_from: RewardFrom) -> Ran:
        """Queue and run `tries` rollouts of each task; a signal leaves the rest queued."""
        async with self._opened() as store:
            routed = self._endpoint is not None or (self._place.store is None and bool(await store.endpoints()))
            run = f"run-{time.strftime('%Y%m%d-%H%M%S')}"
            rollouts = queued_rollouts(list(tasks), tries=tries, routed=routed, run=run, reward_from=reward_from)
            ids = [rollout.id for rollout in rollouts]
            await store.queue(rollouts)
            done = await self._until_done(store, ids)
            ended = [done.get(rollout_id) or await store.rollout(rollout_id) for rollout_id in ids]
            whole = [reward for reward in await store.rewards(ids) if not (reward.agent or reward.call_id)]
            return Ran(ended, whole, self._place)

    def handle_signals(self) -> None:
        """Stop in order at SIGINT and SIGTERM, at the second at once; for a process that is ours."""
        loop = asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            if self._signals and self._working is not None:
                self._working.cancel()
            self._signals.append(number)
            print("stopping; what runs may end (again to end it at once)", file=sys.stderr, flush=True)
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)

    @property
    def code(self) -> int:
        """The exit status."""
        return 128 + self._signals[0] if self._signals else 0

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncGenerator["HttpStore"]:
        from leyden.client import HttpStore

        store = HttpStore(self._place.url, self._place.key)
        try:
            await store.check()
            if self._endpoint is not None:
                await store.publish(self._endpoint)
            yield store
        finally:
            if self._working is not None and not self._working.done():  # we are cancelled: it gives back what it holds
                self._working.cancel()
                await asyncio.wait({self._working})
            await store.close()

    def _begun(self, store: "HttpStore") -> asyncio.Task[None]:
        from leyden.runner.runner import Runner

        self._working = asyncio.create_task(Runner(store, self._options).run(self._stop))
        return self._working

    async def _until_done(self, store: "HttpStore", pending: list[str]) -> dict[str, Rollout]:
        """The rollouts that finished, by id; not all if the runner ended before."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("rollouts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        running = self._begun(store)
        done: dict[str, Rollout] = {}
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("rollouts", total=len(pending))
            while pending and not running.done():
                waiting = asyncio.ensure_future(store.wait(pending, timeout_s=20))
                try:
                    await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
                    new = waiting.result() if waiting.done() else []
                finally:
                    waiting.cancel()
                done |= {rollout.id: rollout for rollout in new}
                pending = [rollout_id for rollout_id in pending if rollout_id not in done]
                progress.advance(bar, len(new))
        self._stop.set()
        await self._ended(running)
        return done

    async def _ended(self, running: asyncio.Task[None]) -> None:
        """Wait for the runner; a second signal cancels it, and it has then given back what it held."""
        await asyncio.wait({running})
        if not (running.cancelled() and self._signals):
            running.result()
