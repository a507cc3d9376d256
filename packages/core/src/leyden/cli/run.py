"""`leyden run`: an agent on tasks; or, without tasks, a runner that works for a server until it is stopped."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from leyden.cli.queued import queued_rollouts
from leyden.errors import BadConfig
from leyden.runner.options import RunnerOptions
from leyden.scope import Routing
from leyden.tasks import read_tasks
from leyden.types import Endpoint, RewardFrom, Rollout

__all__ = ["run"]


def run(
    agent: Annotated[str, typer.Argument(help="agent.py:solve or package.module:solve", show_default=False)],
    tasks: Annotated[Path | None, typer.Option(help="JSON lines; without it, work for --server.")] = None,
    reward: Annotated[str | None, typer.Option(help="reward.py:score; called with (task, result).")] = None,
    server: Annotated[str | None, typer.Option(help="URL of a Leyden server; its key in $LEYDEN_KEY.")] = None,
    model_url: Annotated[str | None, typer.Option(help="The policy's base URL with /v1; calls go there.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name at --model-url.")] = None,
    tries: Annotated[int, typer.Option(min=1, help="Rollouts for each task.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1)] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds for one rollout.")] = 120.0,
    grace: Annotated[float, typer.Option(help="Seconds that rollouts may go on after a stop.")] = 20.0,
    isolation: Annotated[
        Literal["shared", "process"], typer.Option(help="shared, or process: one process for each rollout.")
    ] = "shared",
    on_failure: Annotated[float, typer.Option(help="Reward of a rollout whose agent fails.")] = 0.0,
    reward_from: Annotated[
        RewardFrom, typer.Option(help="Whose rewards are taken: any, or grader (no agent's own).")
    ] = "any",
    models: Annotated[str, typer.Option(help="Names of the models that are the policy, with commas; all.")] = "",
    passthrough: Annotated[str, typer.Option(help="Names of models that go where the agent sends them.")] = "",
    runs: Annotated[Path, typer.Option(help="Folder for the store of a run without --server.")] = Path("runs"),
    forever: Annotated[bool, typer.Option("--forever", help="Work for --server until stopped.")] = False,
) -> None:
    """Run an agent on tasks and score it.

    Example: leyden run agent.py:solve --tasks tasks.jsonl --reward reward.py:score
    """
    if (tasks is None) != forever or (forever and server is None):
        raise BadConfig("give --tasks FILE, or --forever with --server URL")
    if (model_url is None) != (model is None):
        raise BadConfig("--model-url and --model belong together")
    wanted = read_tasks(tasks) if tasks else []
    options = RunnerOptions(
        agent=agent,
        server_url="",
        reward=reward,
        on_failure=on_failure,
        concurrency=concurrency,
        timeout_s=timeout,
        grace_s=grace,
        isolation=isolation,
        routing=Routing(_names(models), _names(passthrough)),
    )
    endpoint = Endpoint(url=model_url, model=model) if model_url and model else None
    with _server(server, runs) as (url, key, store):
        session = _Session(options, url, key, store)
        code = asyncio.run(session.run(wanted, tries, endpoint, server is not None, reward_from=reward_from))
    if code:
        raise typer.Exit(code)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@contextlib.contextmanager
def _server(url: str | None, runs: Path) -> Generator[tuple[str, str, str]]:
    """URL, key, and how later commands find the store."""
    if url is not None:
        key = os.environ.pop("LEYDEN_KEY", None)
        if not key:
            raise BadConfig(f"--server {url} needs its operator's key in LEYDEN_KEY; `leyden serve` says where it is")
        yield url, key, f"--server {url}"
        return
    from leyden.server.serve import BackgroundServer

    folder = runs / time.strftime("run-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    with BackgroundServer(folder / "store.sqlite") as server:
        yield server.url, server.key, f"--store {folder / 'store.sqlite'}"


class _Session:
    """One invocation, with its server at hand."""

    def __init__(self, options: RunnerOptions, url: str, key: str, store: str) -> None:
        self._options = options
        self._url = url.rstrip("/")
        self._key = key
        self._store = store
        self._finished: list[Rollout] = []
        self._signals: list[signal.Signals] = []
        self._stop = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def run(
        self, tasks: list[Any], tries: int, endpoint: Endpoint | None, shared: bool, *, reward_from: RewardFrom
    ) -> int:
        """Returns the exit status."""
        import dataclasses

        from leyden.client import HttpStore
        from leyden.runner.runner import Runner

        self._handle_signals()
        store = HttpStore(self._url, self._key)
        options = dataclasses.replace(self._options, server_url=self._url)
        try:
            await store.check()
            if endpoint is not None:
                await store.publish(endpoint)
            if not tasks:
                self._working = asyncio.create_task(Runner(store, options).run(self._stop))
                await self._ended(self._working)
                return self._code()
            routed = endpoint is not None or (shared and bool(await store.endpoints()))
            run = f"run-{time.strftime('%Y%m%d-%H%M%S')}"
            rollouts = queued_rollouts(tasks, tries=tries, routed=routed, run=run, reward_from=reward_from)
            runner = Runner(store, options, on_finished=self._finished.append)
            await self._run_tasks(store, runner, rollouts)
            await self._summarise(store, rollouts)
        finally:
            await store.close()
        return self._code()

    async def _run_tasks(self, store: Any, runner: Any, rollouts: list[Rollout]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        await store.queue(rollouts)
        console = Console(stderr=True)
        columns = (TextColumn("rollouts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        running = self._working = asyncio.create_task(runner.run(self._stop))
        pending: list[str] = [rollout.id for rollout in rollouts]
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("rollouts", total=len(pending))
            while pending and not running.done():
                waiting = asyncio.ensure_future(store.wait(pending, timeout_s=20))
                await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    break
                done: set[str] = {rollout.id for rollout in waiting.result()}
                pending = [rollout_id for rollout_id in pending if rollout_id not in done]
                progress.advance(bar, len(done))
        self._stop.set()
        await self._ended(running)

    async def _ended(self, running: asyncio.Task[None]) -> None:
        """Wait for the runner; a second signal cancels it, and it has then given back what it held."""
        await asyncio.wait({running})
        if not (running.cancelled() and self._signals):
            running.result()

    async def _summarise(self, store: Any, rollouts: list[Rollout]) -> None:
        ids = [rollout.id for rollout in rollouts]
        ended = [await store.rollout(rollout_id) for rollout_id in ids]
        statuses = Counter(rollout.status for rollout in ended)
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        print(f"{len(ended)} rollouts: {counts}")
        reasons = Counter(reason for rollout in ended for reason in rollout.incomplete)
        reasons.update(rollout.failure.message for rollout in ended if rollout.status == "failed" and rollout.failure)
        for reason, count in reasons.most_common(5):
            print(f"  {count} x {reason}")
        complete = {rollout.id for rollout in ended if rollout.status in ("succeeded", "failed")}
        rewards = [r for r in await store.rewards(ids) if r.rollout_id in complete and not (r.agent or r.call_id)]
        if rewards:
            total = sum(reward.value for reward in rewards)
            print(f"mean reward {total / len(complete):.3f} over {len(complete)} complete rollouts")
        print(f"look at one:  leyden show {ended[0].id} {self._store}")

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            if self._signals and self._working is not None:
                self._working.cancel()
            self._signals.append(number)
            print("stopping; what runs may end (again to end it at once)", file=sys.stderr, flush=True)
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)

    def _code(self) -> int:
        return 128 + self._signals[0] if self._signals else 0
