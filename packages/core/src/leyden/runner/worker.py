"""A worker process: runs agent code, many rollouts on one event loop, and holds rollout keys only.

Started as `python -m leyden.runner.worker FD` with one end of a socket pair. Async agents share the loop; each run of a
sync agent has a daemon thread, which is abandoned when its time is over, its scope closed. Time in which the gateway
held the rollout's requests does not count.
"""

import asyncio
import inspect
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from leyden.capture import flush, install_capture
from leyden.errors import BadConfig
from leyden.runner.failures import judge
from leyden.runner.held import held_s
from leyden.runner.messages import LINE_LIMIT, Done, Job, Setup
from leyden.runner.reference import load_function
from leyden.runner.watchdog import watch_loop
from leyden.scope import Routing, Scope, enter_scope, set_process_scope
from leyden.types import Failure

__all__ = ["main"]

FLUSH_S = 10.0
CANCEL_GRACE_S = 2.0


class Worker:
    """The agent function and the runs that are under way."""

    def __init__(self, setup: Setup, agent: Callable[[Any], Any], writer: asyncio.StreamWriter) -> None:
        self._setup = setup
        self._agent = agent
        self._writer = writer
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._longest_s: float | None = None
        self._abandoned: list[threading.Thread | asyncio.Task[Any]] = []

    def take(self, job: Job) -> None:
        """Begin a run, or cancel one."""
        key = (job.rollout_id, job.attempt)
        if job.cancel:
            task = self._running.get(key)
            if task is not None:
                task.cancel()
            return
        self._longest_s = max(job.timeout_s, self._longest_s or 0.0)
        self._running[key] = asyncio.create_task(self._run(job))
        self._running[key].add_done_callback(lambda _: self._ended(key))

    def _ended(self, key: tuple[str, int]) -> None:
        self._running.pop(key, None)
        if not self._running:
            self._longest_s = None

    def longest_limit_s(self) -> float | None:
        """The longest time limit of the runs under way; None if there are none."""
        return self._longest_s

    async def _run(self, job: Job) -> None:
        routing = Routing(self._setup.models, self._setup.passthrough)
        scope = Scope(
            job.rollout_id, job.attempt, self._setup.server_url, job.key, gateway=job.gateway, routing=routing
        )
        if not self._setup.shared:
            set_process_scope(scope)
        status, result, failure = await self._result(job, scope)
        scope.closed = True
        await asyncio.to_thread(flush, scope, timeout_s=FLUSH_S)
        self.say(
            Done(
                rollout_id=job.rollout_id,
                attempt=job.attempt,
                status=status,
                result=result,
                failure=failure,
                call_ids=tuple(scope.call_ids),
                losses=tuple(scope.losses),
                abandoned=self._count_abandoned(),
            )
        )

    async def _result(self, job: Job, scope: Scope) -> tuple[Any, Any, Failure | None]:
        try:
            return "returned", _jsonable(await self._within_limit(job, scope)), None
        except _OutOfTime:
            message = f"the agent took longer than {job.timeout_s:g} s (agent.timeout_s)"
            return "failed", None, Failure(kind="timeout", message=message)
        except Exception as error:  # the runner boundary: a failed rollout is data
            verdict = judge(error)
            return verdict.status, None, verdict.failure

    async def _within_limit(self, job: Job, scope: Scope) -> Any:
        loop = asyncio.get_running_loop()
        started, allowed_s = loop.time(), job.timeout_s
        running = asyncio.create_task(self._call(job, scope))
        try:
            while True:
                await asyncio.wait({running}, timeout=started + allowed_s - loop.time())
                if running.cancelled():
                    raise RuntimeError("the agent cancelled itself")
                if running.done():
                    return running.result()
                # Asked only now: a request that is held has no answer yet that could tell.
                allowed_s = job.timeout_s + await held_s(scope)
                if loop.time() - started >= allowed_s:
                    raise _OutOfTime
        finally:
            scope.closed = True
            await self._end(running)

    async def _end(self, running: asyncio.Task[Any]) -> None:
        """Cancel what still runs; an agent that does not end then is abandoned."""
        running.cancel()
        await asyncio.wait({running}, timeout=CANCEL_GRACE_S)
        if not running.done():
            self._abandoned.append(running)

    def _count_abandoned(self) -> int:
        self._abandoned = [run for run in self._abandoned if _goes_on(run)]
        return len(self._abandoned)

    async def _call(self, job: Job, scope: Scope) -> Any:
        if inspect.iscoroutinefunction(self._agent):
            return await self._on_loop(self._agent(job.task), scope)
        returned = await self._in_thread(job, scope)
        return await self._on_loop(returned, scope) if inspect.isawaitable(returned) else returned

    async def _on_loop(self, returned: Awaitable[Any], scope: Scope) -> Any:
        try:
            with enter_scope(scope):
                return await returned
        except SystemExit as error:
            raise _exited(error) from error

    async def _in_thread(self, job: Job, scope: Scope) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)

        def run() -> None:
            try:
                with enter_scope(scope):
                    result = self._agent(job.task)
            except Exception as error:  # the runner boundary
                loop.call_soon_threadsafe(settle, None, error)
            except SystemExit as error:
                loop.call_soon_threadsafe(settle, None, _exited(error))
            else:
                loop.call_soon_threadsafe(settle, result, None)

        thread = threading.Thread(target=run, name=f"rollout {job.rollout_id}", daemon=True)
        thread.start()
        try:
            return await future
        except asyncio.CancelledError:
            scope.closed = True  # the thread cannot be stopped, but it calls no model any more
            self._abandoned.append(thread)
            raise

    def say(self, done: Done) -> None:
        """Tell the parent."""
        self._writer.write(done.model_dump_json().encode() + b"\n")


class _OutOfTime(Exception):
    """The agent's time is over."""


def _exited(error: SystemExit) -> RuntimeError:
    return RuntimeError(f"the agent called sys.exit({error.code})")


def _goes_on(run: threading.Thread | asyncio.Task[Any]) -> bool:
    return run.is_alive() if isinstance(run, threading.Thread) else not run.done()


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        raise TypeError(
            f"the agent returned what JSON cannot hold: {error}; return a str, number, dict or list"
        ) from error


async def _serve(descriptor: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor), limit=LINE_LIMIT)
    setup = Setup.model_validate_json(await reader.readline())
    try:
        install_capture(require_scope=setup.shared)
        worker = Worker(setup, load_function(setup.agent), writer)
    except BadConfig as error:
        writer.write(
            Done(status="failed", failure=Failure(kind="agent_error", message=str(error))).model_dump_json().encode()
        )
        writer.write(b"\n")
        return
    except Exception as error:  # the runner boundary: the user's module failed to import
        failure = judge(error).failure.model_copy(update={"message": f"cannot import {setup.agent}: {error}"})
        writer.write(Done(status="failed", failure=failure).model_dump_json().encode() + b"\n")
        return
    watch_loop(worker.longest_limit_s)
    worker.say(Done())
    while line := await reader.readline():
        worker.take(Job.model_validate_json(line))


def main() -> None:
    """Serve the parent until it closes the socket; abandoned threads do not keep the process."""
    asyncio.run(_serve(int(sys.argv[1])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
