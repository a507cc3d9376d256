"""The life of one attempt: forwarded, checked, committed to the store, and only then answered.

Unlike a proxy that logs, an answer whose record was not committed never reaches the agent: of a stream the last chunk
is held back until then.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError

from leyden.errors import BadInput, Conflict, LeaseLost, LeydenError, OverLimit
from leyden.gateway.answer import Answer
from leyden.gateway.asked import Asked
from leyden.gateway.caller import Caller
from leyden.gateway.door import Reply
from leyden.gateway.endpoints import Endpoints, Picked
from leyden.gateway.fault import Fault, fault, fault_of
from leyden.gateway.held import HeldClock
from leyden.gateway.json_text import is_object, load_object
from leyden.gateway.measures import Measures
from leyden.gateway.replay import Recorded, recorded
from leyden.gateway.rollouts import RunningRollouts
from leyden.gateway.sse import DONE, EventParser, event
from leyden.gateway.upstream import Answering, Upstream
from leyden.store.protocol import Store
from leyden.types import Attempt, Call, CallStatus, Choice, Sampling, new_id

__all__ = ["ClientGone", "Exchange", "Parts", "Receive"]

_log = logging.getLogger("leyden.gateway")
_T = TypeVar("_T")
_P = ParamSpec("_P")

Receive = Callable[[], Awaitable[Any]]
"""ASGI's receive."""


_MISSHAPEN = (TypeError, ValueError, LookupError, AttributeError, OverflowError)
"""What reading an answer raises whose fields have other types than the API's: to check each field of each chunk before
would cost every good answer."""


class ClientGone(Exception):
    """The agent's client closed the connection before the answer was complete."""


@dataclass(frozen=True)
class Parts:
    """What all exchanges of a gateway share."""

    store: Store
    endpoints: Endpoints
    rollouts: RunningRollouts
    upstream: Upstream
    measures: Measures
    call_limit_s: float
    warned: set[str] = field(default_factory=set[str])
    """URLs of the endpoints about whose tokens the log has complained."""


class Exchange:
    """One attempt of one call. `reply` words the answer in the API that the agent asked in."""

    def __init__(self, parts: Parts, caller: Caller, asked: Asked, reply: Reply) -> None:
        self.caller = caller
        self.asked = asked
        self.reply = reply
        self._parts = parts
        self._id = new_id()
        self._answer = Answer(asked)
        self._sent: dict[str, Any] = {}
        self._picked: Picked | None = None
        self._replayed: str | None = None
        self._came = time.perf_counter()
        self._begin()

    def _begin(self) -> None:
        self._started_at = time.time()
        self._clock = time.perf_counter()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {"x-leyden-call": self.caller.call_id}
        if self._picked is not None and self._picked.held_s > 0:
            headers["x-leyden-held-ms"] = f"{self._picked.held_s * 1000:.0f}"
        return headers

    async def settled(self, work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
        """The result of `work` (`whole` or `stream`), after the attempt was committed, however it ended.

        Raises:
            ClientGone: the client left first; the attempt is on record as cancelled.
            Fault: what the agent gets instead; the attempt is on record as an error, unless the fault says otherwise.
        """
        try:
            result = await _unless_gone(self._in_time(work), receive)
        except ClientGone:
            await self._commit("cancelled", error="the client closed the connection before the answer was complete")
            raise
        except (Fault, LeydenError) as error:
            told = error if isinstance(error, Fault) else fault_of(error)
            await self._commit("error", http_status=told.status, error=str(told))
            raise told from error
        await self._commit("ok", http_status=200)
        return result

    async def _in_time(self, work: Coroutine[Any, Any, _T]) -> _T:
        limit_s = self._parts.call_limit_s
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except TimeoutError:
            told = f"call {self.caller.call_id} took longer than the server's limit of {limit_s:g} s"
            raise OverLimit(told, 504) from None

    async def whole(self) -> bytes:
        """Forward a request without a stream; the body for the agent."""
        with await self._sent_on() as answering:
            raw = await answering.read()
            body = self._load(raw)
            if not body.get("choices"):
                raise self._unreadable(f"an answer without choices: {raw[:200]!r}")
            self._take(body)
            return raw if self._as_it_came else self._said(self.reply.whole, body)

    async def stream(self, write: Callable[[bytes], Awaitable[None]]) -> bytes:
        """Forward a request with a stream; passes events on with `write`, and returns those that are held back."""
        held_back: list[bytes] = []
        with await self._sent_on() as answering:
            await write(self.reply.opening())
            parser = EventParser()
            while received := await answering.piece():
                early: list[bytes] = []
                for data in parser.feed(received):
                    if data == DONE:
                        continue
                    body = self._load(data)
                    visible = self._take(body)
                    if visible:
                        said = event(data) if self._as_it_came else self._said(self.reply.chunk, body)
                        (held_back if self._answer.ending else early).append(said)
                if early:
                    await write(b"".join(early))
            if not self._answer.finished:
                raise self._unreadable("a stream that ended without a finish reason")
            held_back.append(self._said(self.reply.closing))
        return b"".join(held_back)

    async def _sent_on(self) -> Answering | Recorded:
        """Send the request on to the policy, or find the answer that is replayed."""
        caller, parts = self.caller, self._parts
        replay = caller.running.rollout.replay if caller.running is not None else None
        if caller.running is not None and replay is not None:
            number = await parts.rollouts.call_number(caller.running, caller.call_id)
            answer = await recorded(parts.store, replay, number, self.asked)
            if answer is not None:
                self._replayed = answer.call_id
                self._sent = {"replayed": answer.call_id}
                return answer
        clock = caller.running.held if caller.running is not None else HeldClock()
        self._picked = await parts.endpoints.pick(caller.rollout_id or caller.call_id, clock)
        self._begin()
        sampling, call_number = Sampling(), 0
        if caller.running is not None:
            sampling = caller.running.rollout.sampling
            if sampling.seed is not None:
                call_number = await parts.rollouts.call_number(caller.running, caller.call_id)
        endpoint = self._picked.endpoint
        body, self._sent = self.asked.for_policy(sampling, endpoint.model, call_number)
        rollout = f"{caller.rollout_id}/{caller.attempt}" if caller.rollout_id else None
        path = self.asked.policy_path
        return await parts.upstream.post(endpoint, path, body, request_id=self._id, rollout=rollout)

    def _load(self, raw: bytes) -> dict[str, Any]:
        try:
            body = load_object(raw)
        except BadInput as error:
            raise self._unreadable(str(error)) from error
        error = body.get("error")
        if is_object(error):
            raise Fault(502, error)
        return body

    def _take(self, body: dict[str, Any]) -> bool:
        try:
            return self._answer.take(body)
        except BadInput as error:
            raise self._unreadable(str(error)) from error
        except _MISSHAPEN as error:
            raise self._misshapen(error) from error

    @property
    def _as_it_came(self) -> bool:
        """Whether the agent gets what was taken last in the policy's own bytes."""
        return self.reply.verbatim and not self._answer.stripped

    def _said(self, say: Callable[_P, bytes], *args: _P.args, **kwargs: _P.kwargs) -> bytes:
        try:
            return say(*args, **kwargs)
        except BadInput as error:
            raise self._unreadable(str(error)) from error
        except _MISSHAPEN as error:
            raise self._misshapen(error) from error

    def _misshapen(self, error: Exception) -> Fault:
        self._answer = Answer(self.asked)  # what came cannot be kept either
        return self._unreadable(f"a field that has no place or type of this API's: {type(error).__name__}: {error}")

    def _sampled(self) -> tuple[tuple[Choice, ...], list[str]]:
        try:
            return self._answer.choices()
        except (ValidationError, *_MISSHAPEN) as error:
            return (), [f"the answer cannot be kept, {type(error).__name__}: {str(error)[:200]}"]

    def _unreadable(self, what: str) -> Fault:
        endpoint = self._picked.endpoint if self._picked else None
        told = f"endpoint {endpoint.id} at {endpoint.url}" if endpoint else "the endpoint"
        return fault(
            502,
            f"{told} answered request {self._id} with {what}; see the policy server's log",
            kind="server_error",
            code="policy_unreadable",
        )

    async def _commit(self, status: CallStatus, *, http_status: int | None = None, error: str | None = None) -> None:
        """Record the attempt; returns when the store has committed it."""
        latency_ms = (time.perf_counter() - self._clock) * 1000
        caller, answer = self.caller, self._answer
        endpoint = self._picked.endpoint if self._picked else None
        try:
            choices, problems = self._sampled()
            if problems and status == "ok" and endpoint is not None:
                error = "; ".join(problems)
                self._complain(endpoint.url, error)
            attempt = Attempt(
                number=caller.number,
                id=self._id,
                status=status,
                started_at=self._started_at,
                latency_ms=latency_ms,
                http_status=http_status,
                error=error,
                endpoint=endpoint.url if endpoint else None,
                version=await self._version() if choices else None,
                choices=choices,
                usage=answer.usage,
            ).model_copy(update={"prompt_token_ids": answer.prompt_token_ids})  # checked, number by number, as it came
            call = Call(
                id=caller.call_id,
                rollout_id=caller.rollout_id,
                attempt=caller.attempt,
                started_at=self._started_at,
                captured_by=("gateway",),
                request=self.asked.record(self._sent),
                attempts=(attempt,),
                structure=caller.structure,
                context=self._replayed is not None,
            )
            with self._parts.measures.gateway_record.time():
                await self._parts.store.record([call])
        except (LeydenError, ValidationError) as failure:
            raise self._unrecorded(failure) from failure
        self._measure(attempt)

    def _measure(self, attempt: Attempt) -> None:
        measures, took_s = self._parts.measures, time.perf_counter() - self._came
        measures.ended(attempt.status, took_s)
        newest = self._parts.endpoints.newest_version
        if attempt.version is not None and newest is not None:
            measures.staleness.observe(max(0, newest - attempt.version))
        _log.info("model call %s after %.0f ms", attempt.status, took_s * 1000)

    def _unrecorded(self, failure: LeydenError | ValidationError) -> Fault:
        _log.error("call %s of rollout %s was not recorded: %s", self.caller.call_id, self.caller.rollout_id, failure)
        if isinstance(failure, LeaseLost | Conflict):
            return fault_of(failure)
        return fault(
            503,
            f"call {self.caller.call_id} was not recorded, so its answer is withheld: {failure}",
            kind="server_error",
            code="not_recorded",
        )

    def _complain(self, url: str, problem: str) -> None:
        if url not in self._parts.warned:
            self._parts.warned.add(url)
            _log.error(
                "endpoint %s: %s; such calls cannot be trained on. Serve the policy with vLLM's return_token_ids and "
                "logprobs, without parsers that drop tokens (said once for each endpoint)",
                url,
                problem,
            )

    async def _version(self) -> int | None:
        versions = self._answer.versions
        if versions or self._picked is None:
            return next(iter(versions)) if len(versions) == 1 else None
        before = self._picked.endpoint
        after = await self._parts.endpoints.version(before.id)
        return before.version if after == before.version else None


async def _unless_gone(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
    """The result of `work`, which is cancelled when the client leaves."""
    current = asyncio.current_task()
    assert current is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        current.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not current.uncancel():
            raise ClientGone from None
        raise
    finally:
        watching.cancel()
