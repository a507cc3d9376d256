"""The parent's side of a worker process: start it, send it jobs, hear how they ended, notice when it dies."""

import asyncio
import contextlib
import os
import socket
import sys
from typing import Self

from leyden.errors import BadConfig
from leyden.keys import STAND_IN_KEY
from leyden.runner.messages import LINE_LIMIT, Done, Job, Setup
from leyden.runner.watchdog import BLOCKED_STATUS
from leyden.types import Failure

__all__ = ["WorkerProcess"]

_SECRETS = ("LEYDEN_KEY", "LEYDEN_EXIT_WITH_STDIN")


class WorkerProcess:
    """One worker. A run's future ends with `Done`, also when the process dies."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._waiting: dict[tuple[str, int], asyncio.Future[Done]] = {}
        self._listening: asyncio.Task[None] | None = None
        self.abandoned = 0
        """Runs that are over and still go on there, as it said last."""

    @classmethod
    async def start(cls, setup: Setup, environment: dict[str, str] | None = None) -> Self:
        """Start a worker and wait until the agent is imported.

        Raises:
            BadConfig: the agent cannot be loaded.
        """
        ours, theirs = socket.socketpair()
        # Clients are often built when a module is imported, and refuse to be without a key; the hook replaces it.
        inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        environment = {"OPENAI_API_KEY": STAND_IN_KEY, **inherited, **(environment or {})}
        command = [sys.executable, "-m", "leyden.runner.worker", str(theirs.fileno())]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # the parent alone decides what Ctrl-C means
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
        worker = cls(process, reader, writer)
        writer.write(setup.model_dump_json().encode() + b"\n")
        line = await reader.readline()
        ready = Done.model_validate_json(line) if line else Done(failure=_died(await process.wait()))
        if ready.failure is not None:
            await worker.stop()
            raise BadConfig(f"{ready.failure.message}\n{ready.failure.traceback or ''}".rstrip())
        worker._listening = asyncio.create_task(worker._listen())
        return worker

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and self._listening is not None and not self._listening.done()

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a run."""
        return bool(self._waiting)

    async def run(self, job: Job) -> Done:
        """Run the agent once; cancelling it cancels the run."""
        key = (job.rollout_id, job.attempt)
        if not self.alive:
            return _lost(key, _died(self._process.returncode))
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._send(job)
        try:
            return await future
        except asyncio.CancelledError:
            self._send(Job(rollout_id=job.rollout_id, attempt=job.attempt, cancel=True))
            raise
        finally:
            self._waiting.pop(key, None)

    async def stop(self) -> None:
        """End the process and all its runs."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        if self._listening is not None:
            await self._listening

    def _send(self, job: Job) -> None:
        self._writer.write(job.model_dump_json().encode() + b"\n")

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                done = Done.model_validate_json(line)
                self.abandoned = done.abandoned
                future = self._waiting.get((done.rollout_id or "", done.attempt))
                if future is not None and not future.done():
                    future.set_result(done)
        failure = _died(await self._process.wait())
        for key, future in self._waiting.items():
            if not future.done():
                future.set_result(_lost(key, failure))


def _died(code: int | None) -> Failure:
    message = f"the worker process ended with exit status {code}"
    if code == BLOCKED_STATUS:
        message += (
            ": an async agent blocked the event loop for longer than its time limit; await what takes long, or make "
            "the agent a plain def"
        )
    return Failure(kind="infrastructure", message=message)


def _lost(key: tuple[str, int], failure: Failure) -> Done:
    return Done(rollout_id=key[0], attempt=key[1], status="lost", failure=failure)
