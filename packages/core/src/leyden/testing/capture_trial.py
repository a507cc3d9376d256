"""Runs agents the way a worker does, behind a real server, gateway and SQLite store, with a scripted policy.

Unlike a worker it stays in this process and keeps everything in sight: what the policy was asked, what was captured.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from leyden.capture import flush, install_capture, uninstall_capture
from leyden.client import HttpStore
from leyden.scope import Scope, enter_scope
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Received, Reply
from leyden.types import Call, Endpoint, Failure, Mode, Outcome, Reward, Rollout, new_id

__all__ = ["PATIENCE_S", "Agent", "CaptureTrial", "Captured", "Script", "nowhere"]

WAIT_S = 10.0
"""For the records of calls that the hook saw; a call that never comes costs as much, and a reason."""
PATIENCE_S = 60.0
"""Of waits that end as soon as what they wait for comes."""
_DAY_S = 86_400.0  # a lease that outlasts a machine that slept

Agent = Callable[[str, str], Awaitable[JsonValue]]
"""An async function of (task, base URL of the model)."""
Script = Callable[[dict[str, Any], Mapping[str, str]], Reply]


@dataclass(frozen=True)
class Captured:
    """What came of one rollout."""

    result: JsonValue
    error: BaseException | None
    """What the agent raised."""
    scope: Scope
    rollout: Rollout
    """As the store has finished it."""
    calls: tuple[Call, ...]
    requests: tuple[Received, ...]
    """What the policy server received meanwhile."""


class CaptureTrial:
    """`async with CaptureTrial(folder, script) as trial:`; capture must be installed for `captured`.

    Args:
        folder: for the store.
        script: what the policy answers.
        gateway: False: rollouts are traced; agents ask the policy itself, at `trial.policy.url`.
    """

    def __init__(self, folder: Path, script: Script, *, gateway: bool = True) -> None:
        self.script = script
        """What the policy answers; may be replaced between two runs."""
        self.policy = FakeServer(self._answer)
        self.server = BackgroundServer(folder / "store.sqlite")
        self._gateway = gateway
        self._claiming = asyncio.Lock()
        self._stack = AsyncExitStack()

    def _answer(self, body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        return self.script(body, headers)

    async def __aenter__(self) -> Self:
        self._stack.enter_context(self.policy)
        self._stack.enter_context(self.server)
        self.store = HttpStore(self.server.url, self.server.key)
        self._stack.push_async_callback(self.store.close)
        await self.store.publish(Endpoint(url=self.policy.url, model="m"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def plain(self, agent: Agent, task: str) -> tuple[JsonValue, BaseException | None, tuple[Received, ...]]:
        """Run without hooks, straight at the policy server: result, what it raised, what the policy received."""
        uninstall_capture()
        try:
            before = len(self.policy.requests)
            result, error = await _outcome(agent, task, self.policy.url)
            return result, error, tuple(self.policy.requests[before:])
        finally:
            install_capture(require_scope=True)

    async def captured(
        self,
        agent: Agent,
        task: str,
        *,
        url: str | None = None,
        server_url: str | None = None,
        flush_s: float = PATIENCE_S,
    ) -> Captured:
        """Run in a rollout of its own.

        Args:
            task: becomes the rollout's id too.
            url: the agent's base URL; None: one at which nobody listens, or without a gateway the policy's.
            server_url: another way to the Leyden server.
            flush_s: how long what the adapter recorded may take to be sent.
        """
        before = len(self.policy.requests)
        url = url or (nowhere() if self._gateway else self.policy.url)
        scope = await self.claimed(task, server_url)
        with enter_scope(scope):
            result, error = await _outcome(agent, task, url)
        return await self.finished(scope, result, error, before=before, flush_s=flush_s)

    async def claimed(self, rollout_id: str, server_url: str | None = None) -> Scope:
        """The scope of a new rollout that runs."""
        mode: Mode = "train" if self._gateway else "trace"
        async with self._claiming:
            await self.store.queue([Rollout(id=rollout_id, task=rollout_id, mode=mode)])
            (claim,) = await self.store.claim("trial", limit=1, lease_s=_DAY_S)
        return Scope(rollout_id, 1, server_url or self.server.url, claim.key, gateway=self._gateway)

    async def finished(
        self,
        scope: Scope,
        result: JsonValue,
        error: BaseException | None,
        *,
        before: int = 0,
        flush_s: float = PATIENCE_S,
    ) -> Captured:
        """Finish the rollout as a runner does, and read back what is on record."""
        await asyncio.to_thread(flush, scope, timeout_s=flush_s)
        failure = Failure(kind="agent_error", message=f"{type(error).__name__}: {error}") if error else None
        outcome = Outcome(
            rollout_id=scope.rollout_id,
            attempt=1,
            runner="trial",
            status="failed" if error else "succeeded",
            result=result,
            failure=failure,
            incomplete=tuple(scope.losses),
            rewards=(Reward(rollout_id=scope.rollout_id, value=0.0 if error else 1.0),),
            call_ids=tuple(scope.call_ids),
            wait_s=WAIT_S,
        )
        rollout = await self.store.finish(outcome)
        calls = tuple(await self.store.calls([scope.rollout_id]))
        return Captured(result, error, scope, rollout, calls, tuple(self.policy.requests[before:]))


def nowhere() -> str:
    """A base URL at which nobody listens; never the same, as LangChain shares HTTP clients by URL over event loops."""
    return f"http://127.0.0.1:9/{new_id()}/v1"


async def _outcome(agent: Agent, task: str, url: str) -> tuple[JsonValue, BaseException | None]:
    """What the agent returned, or what it raised."""
    running = asyncio.ensure_future(agent(task, url))
    await asyncio.wait([running])
    if running.cancelled():
        return None, asyncio.CancelledError()
    error = running.exception()
    return (None, error) if error is not None else (running.result(), None)
