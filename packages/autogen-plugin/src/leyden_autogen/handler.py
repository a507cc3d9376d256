"""A logging handler for AutoGen's event log: a readable record of each call for those who register by hand.

The log says less than the adapter knows: the agent's name only within a team (and not the agents above it), no failed
call, no parent, no start (a call lasts 0 ms, a stream from its first chunk on), and no tool schemas of a stream.
"""

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from autogen_core.logging import LLMCallEvent, LLMStreamEndEvent, LLMStreamStartEvent, ToolCallEvent
from autogen_core.models import CreateResult

from leyden.exception_text import exception_text
from leyden.recorder import recorder
from leyden.scope import Scope, current_scope
from leyden.types import Attempt, Choice, Request, Structure, ToolUse, new_id
from leyden_autogen.frames import current_frame
from leyden_autogen.runs import current_run, partial_call
from leyden_autogen.wording import choice_of, readable

__all__ = ["LeydenHandler"]


@dataclass
class _Told:
    """What the log has told of one rollout so far."""

    scope: Scope
    started: dict[str | None, tuple[float, Any]] = field(default_factory=dict[str | None, tuple[float, Any]])
    """Streams under way, by agent."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    """Tool calls not yet done, each with the call that asked for it."""


class LeydenHandler(logging.Handler):
    """For `logging.getLogger(autogen_core.EVENT_LOGGER_NAME)`, whose level must be INFO.

    It records calls of the current rollout that neither a gateway nor the installed adapter records.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._rollouts: list[_Told] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note one event; a fault is handled as logging handles faults, and makes the rollout incomplete."""
        scope = current_scope()
        if scope is None or scope.gateway or current_run.get() is not None:
            return
        try:
            self._note(self._told(scope), record.msg, record.created)
        except Exception as error:  # the capture boundary
            scope.losses.append(f"the AutoGen handler failed: {exception_text(error)}")
            self.handleError(record)

    def _told(self, scope: Scope) -> _Told:
        self._rollouts = [told for told in self._rollouts if not told.scope.closed]
        for told in self._rollouts:
            if told.scope is scope:
                return told
        told = _Told(scope)
        self._rollouts.append(told)
        return told

    def _note(self, told: _Told, event: Any, at: float) -> None:
        kwargs: dict[str, Any] = getattr(event, "kwargs", {})
        if isinstance(event, LLMStreamStartEvent):
            told.started[kwargs["agent_id"]] = (at, kwargs["messages"])
        elif isinstance(event, LLMCallEvent):
            self._send(told, kwargs, (at, at), kwargs["messages"], _choices(kwargs["response"]))
        elif isinstance(event, LLMStreamEndEvent):
            started_at, messages = told.started.pop(kwargs["agent_id"], (at, ()))
            answer = choice_of(CreateResult.model_validate(kwargs["response"]))
            self._send(told, kwargs, (started_at, at), messages, (answer,))
        elif isinstance(event, ToolCallEvent) and current_frame.get() is None:
            self._send_tool(told, kwargs)

    def _send(
        self, told: _Told, kwargs: dict[str, Any], span: tuple[float, float], messages: Any, choices: tuple[Choice, ...]
    ) -> None:
        scope, call_id, response = told.scope, new_id(), kwargs["response"]
        for choice in choices:
            told.asked += [(call_id, readable(call)) for call in choice.message.get("tool_calls") or ()]  # type: ignore[union-attr]
        usage = {name: kwargs[name] for name in ("prompt_tokens", "completion_tokens")}
        attempt = Attempt(
            number=0,
            status="ok",
            started_at=span[0],
            latency_ms=(span[1] - span[0]) * 1000,
            choices=choices,
            usage=usage,
        )
        request = Request(
            messages=tuple(readable(messages)),
            tools=tuple(readable(kwargs.get("tools") or ())),
            asked={"model": response["model"]} if "model" in response else {},
        )
        structure = Structure(framework="autogen", agent=_agent(kwargs["agent_id"]), outcome="returned")
        scope.call_ids.append(call_id)
        call = partial_call(call_id, scope, span[0], structure=structure, request=request, attempts=(attempt,))
        recorder.record(scope, call)

    def _send_tool(self, told: _Told, kwargs: dict[str, Any]) -> None:
        for place, (call_id, call) in enumerate(told.asked):
            function = call["function"]
            if (function["name"], _parsed(function["arguments"])) == (kwargs["tool_name"], kwargs["arguments"]):
                del told.asked[place]
                use = ToolUse(
                    tool_call_id=call["id"],
                    name=kwargs["tool_name"],
                    arguments=readable(kwargs["arguments"]),
                    result=kwargs["result"],
                    finished_at=time.time(),
                )
                recorder.record(told.scope, partial_call(call_id, told.scope, time.time(), tools=(use,)))
                return


def _agent(agent_id: str | None) -> tuple[str, ...]:
    """The name in "name_TEAM/TEAM"."""
    if agent_id is None:
        return ()
    name, _, key = agent_id.partition("/")
    return (name.removesuffix(f"_{key}"),)


def _choices(response: dict[str, Any]) -> tuple[Choice, ...]:
    choices: list[dict[str, Any]] = readable(response.get("choices") or ())
    return tuple(
        Choice(
            message={name: value for name, value in choice["message"].items() if value is not None},
            finish_reason=choice.get("finish_reason"),
        )
        for choice in choices
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
