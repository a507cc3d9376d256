"""A model run: one `create` or `create_stream` of a model client, and what is sent of it when it is over.

With a gateway that is the outcome. Without one it is the whole readable call, as AutoGen saw it, without tokens.
"""

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from autogen_core.models import CreateResult

from leyden.exception_text import exception_text
from leyden.recorder import recorder
from leyden.scope import Scope
from leyden.types import Attempt, Call, CallStatus, Request, Structure
from leyden_autogen.frames import Frame
from leyden_autogen.wording import choice_of, readable

__all__ = ["Run", "current_run", "model_failures", "partial_call"]

model_failures: ContextVar[list[BaseException] | None] = ContextVar("leyden_autogen_failures", default=None)
"""What models have raised within the team that runs here."""


@dataclass(eq=False)
class Run:
    """One model run. `call_id` is None until the hook has seen its request."""

    frame: Frame | None
    request: Request | None
    """Only where no gateway records it."""
    started_at: float = field(default_factory=time.time)
    scope: Scope | None = None
    call_id: str | None = None
    structure: Structure | None = None
    over: bool = False

    def called(self, call_id: str, structure: Structure, scope: Scope) -> None:
        """The hook has made its request."""
        self.call_id, self.structure, self.scope = call_id, structure, scope
        if not scope.gateway:
            scope.call_ids.append(call_id)

    def returned(self, result: CreateResult) -> None:
        """Note which tools were asked for, and send the outcome."""
        if self.call_id is None or self.scope is None:
            return
        if self.frame is not None and not isinstance(result.content, str):
            self.frame.asked.update({call.id: self.call_id for call in result.content})
        self._send(self.call_id, self.scope, Structure(outcome="returned"), result)

    def failed(self, error: BaseException) -> None:
        """It raised: a failure, a cancellation, or an answer that the client could not parse."""
        failures = model_failures.get()
        if failures is not None:
            failures.append(error)
        if self.call_id is None or self.scope is None:
            return
        cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt)
        text = exception_text(error)
        self._send(
            self.call_id, self.scope, Structure(outcome="cancelled" if cancelled else "raised", error=text), None
        )

    def _send(self, call_id: str, scope: Scope, ended: Structure, result: CreateResult | None) -> None:
        if self.over or call_id not in scope.call_ids:  # a stream left after its end; a model that passes through
            return
        self.over = True
        fields: dict[str, Any] = {"structure": ended}
        if not scope.gateway and self.structure is not None:
            known = {"outcome": ended.outcome, "error": ended.error}
            fields = {
                "structure": self.structure.model_copy(update=known),
                "request": self.request,
                "attempts": (self._attempt(ended, result),),
            }
        recorder.record(scope, partial_call(call_id, scope, self.started_at, **fields))

    def _attempt(self, ended: Structure, result: CreateResult | None) -> Attempt:
        status: CallStatus = (
            "ok" if ended.outcome == "returned" else "cancelled" if ended.outcome == "cancelled" else "error"
        )
        return Attempt(
            number=0,
            status=status,
            started_at=self.started_at,
            latency_ms=(time.time() - self.started_at) * 1000,
            error=ended.error,
            choices=(choice_of(result),) if result is not None else (),
            usage=readable(result.usage) if result is not None else None,
        )


current_run: ContextVar[Run | None] = ContextVar("leyden_autogen_run", default=None)


def partial_call(call_id: str, scope: Scope, started_at: float, **fields: Any) -> Call:
    """What the adapter knows of a call."""
    mine: dict[str, Any] = {"rollout_id": scope.rollout_id, "attempt": scope.attempt, "started_at": started_at}
    return Call(id=call_id, captured_by=("adapter",), **mine, **fields)
