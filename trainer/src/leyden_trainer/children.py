"""The two processes that `leyden train` starts on one machine: the server, and a runner under the agent's interpreter.

They end with their parent, also when it is killed: each holds the reading end of a pipe that only the parent can write.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from leyden.errors import BadConfig, TrainingStopped
from leyden.keys import new_operator_key
from leyden_trainer.config import TrainConfig

__all__ = ["Server", "opened_server", "started_runner", "started_server"]

READY_PREFIX = "leyden: serving on "
DASHBOARD_PREFIX = "leyden: dashboard on "
ROLLOUT_GRACE_S = 5.0
STOP_GRACE_S = 20.0  # longer: the runner then gives back what has not ended


@dataclass(frozen=True)
class Server:
    """Where the Leyden server is, and the key that opens it."""

    url: str
    key: str
    dashboard: str
    """Where to watch."""


@contextlib.asynccontextmanager
async def opened_server(config: TrainConfig, folder: Path, key: str | None) -> AsyncGenerator[Server]:
    """The server that the configuration names, which `key` opens, or one of its own.

    Raises:
        BadConfig: a server is named, and no key was given.
    """
    if not config.server:
        async with started_server(folder) as server:
            yield server
        return
    if key is None:
        raise BadConfig(f"server = {config.server} needs its operator's key in LEYDEN_KEY; `leyden serve` printed it")
    yield Server(config.server, key, f"{config.server}/dashboard")


@contextlib.asynccontextmanager
async def started_server(folder: Path) -> AsyncGenerator[Server]:
    """A server of its own for this run, its store in `folder`, on a port that the system chose."""
    key = new_operator_key()
    log = folder / "server.log"
    command = [sys.executable, "-m", "leyden", "serve", "--store", str(folder / "store.sqlite"), "--port", "0"]
    async with _child(command, key=key, log=log, stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        while line and not line.startswith(READY_PREFIX):
            line = (await process.stdout.readline()).decode().strip()
        if not line:
            raise TrainingStopped(f"the server did not start: {_last_lines(log)}")
        watch = (await process.stdout.readline()).decode().strip()
        yield Server(line.removeprefix(READY_PREFIX), key, watch.removeprefix(DASHBOARD_PREFIX))


@contextlib.asynccontextmanager
async def started_runner(
    config: TrainConfig, server: Server, folder: Path, *, log: str = "runner.log"
) -> AsyncGenerator[asyncio.Task[str]]:
    """A runner that claims from `server`. The task ends, with the runner's last words, only if the runner does."""
    agent = config.agent
    command = [agent.python or sys.executable, "-m", "leyden", "run", agent.function, "--forever"]
    command += ["--reward", config.reward.function, "--on-failure", str(config.reward.on_failure)]
    command += ["--server", server.url, "--concurrency", str(agent.concurrency)]
    command += ["--timeout", str(agent.timeout_s), "--grace", str(ROLLOUT_GRACE_S), "--isolation", agent.isolation]
    if agent.models:
        command += ["--models", ",".join(agent.models)]
    if agent.passthrough:
        command += ["--passthrough", ",".join(agent.passthrough)]
    path = folder / log
    async with _child(command, key=server.key, log=path) as process:
        died = asyncio.create_task(_last_words(process, path))
        try:
            yield died
        finally:
            died.cancel()


async def _last_words(process: asyncio.subprocess.Process, log: Path) -> str:
    code = await process.wait()
    return f"the runner ended with exit status {code}: {_last_lines(log)}"


def _last_lines(log: Path, count: int = 5) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' | '.join(lines[-count:]) or 'it said nothing'} (all of it is in {log})"


@contextlib.asynccontextmanager
async def _child(
    command: list[str], *, key: str, log: Path, stdout: int | None = None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Start a process that ends with us. Its key travels in its environment, never in its arguments."""
    environment = {**os.environ, "LEYDEN_KEY": key, "LEYDEN_EXIT_WITH_STDIN": "1"}
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=sink if stdout is None else stdout,
            stderr=sink,
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on, in order
        )
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_GRACE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
