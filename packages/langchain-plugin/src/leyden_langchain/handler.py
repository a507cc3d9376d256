"""The callback handler: notes the tree of runs, and sends what only the framework knows of each call.

With a gateway that is the outcome and the tools. Without one (a handler given by hand, or tracing) it is the whole
readable call, as LangChain saw it; there are then no tokens.
"""

import time
from contextvars import ContextVar
from functools import partial
from typing import Any, cast
from uuid import UUID
from weakref import WeakSet

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_core.outputs import LLMResult
from pydantic_core import to_jsonable_python

from leyden.exception_text import exception_text
from leyden.recorder import recorder
from leyden.scope import Scope, current_scope
from leyden.types import Attempt, Call, CallStatus, Choice, Request, Structure, ToolUse, new_id
from leyden_langchain.runs import Run, Runs

__all__ = ["LeydenCallbackHandler", "install_handler", "model_run"]

model_run: ContextVar[UUID | None] = ContextVar("leyden_langchain_model_run", default=None)
"""The model run whose request comes next in this context."""
_installed: "LeydenCallbackHandler | None" = None
_handlers: "WeakSet[LeydenCallbackHandler]" = WeakSet()


def install_handler(handler: "LeydenCallbackHandler | None") -> None:
    """Let this handler capture for all; None: the handlers given by hand do so each for themselves."""
    global _installed
    _installed = handler
    if handler is not None:
        handler.by_hand = False
    for other in _handlers:
        other.heed()


class LeydenCallbackHandler(BaseCallbackHandler):
    """Captures calls for the current rollout; outside any it does nothing. One handler serves all threads and tasks.

    Where the adapter is installed it captures already, and a handler given by hand adds nothing.
    """

    run_inline = True  # in the caller's own context and order; everything here only enqueues
    # LangChain looks at these before each event: of chains, of completion and of chat models, and of tools. They are
    # plain attributes, where its base class has properties, and `heed` sets them.
    ignore_chain = ignore_llm = ignore_chat_model = ignore_agent = False  # type: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self) -> None:
        self.runs = Runs()
        self.by_hand = True
        _handlers.add(self)
        self.heed()

    def heed(self) -> None:
        """Ignore all events where another handler captures in this one's place, or this one was uninstalled."""
        ignored = _installed is not self and (_installed is not None or not self.by_hand)
        vars(self).update(dict.fromkeys(("ignore_chain", "ignore_llm", "ignore_chat_model", "ignore_agent"), ignored))

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        """Note where in the tree."""
        self.runs.begin(Run(run_id, parent_run_id, more.get("metadata") or {}))

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> None:
        """Forget the run."""
        self.runs.end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        """Forget the run."""
        self.runs.end(run_id)

    def on_chat_model_start(
        self,
        serialized: Any,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> None:
        """Note the model run; the hook asks for it when the request is made."""
        run = Run(run_id, parent_run_id, more.get("metadata") or {}, scope=current_scope(), started_at=time.time())
        if run.scope is not None and not run.scope.gateway:
            run.request = {"messages": messages[0] if messages else [], **(more.get("invocation_params") or {})}
        self.runs.begin_model(run)
        model_run.set(run_id)

    def on_llm_start(
        self,
        serialized: Any,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> None:
        """The same for completion models."""
        run = Run(run_id, parent_run_id, more.get("metadata") or {}, scope=current_scope(), started_at=time.time())
        if run.scope is not None and not run.scope.gateway:
            run.request = {"messages": prompts, **(more.get("invocation_params") or {})}
        self.runs.begin_model(run)
        model_run.set(run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **more: Any) -> None:
        """Note which tools were asked for, and send the outcome."""
        run = self.runs.end(run_id)
        if run is None or run.scope is None:
            return
        if run.call_id is None and not run.scope.gateway:
            run.call_id = new_id()  # no client of `openai` made the request
        if run.call_id is not None:
            self.runs.asked(run.scope, _tool_call_ids(response), run.call_id)
        self._send(run, run.scope, "returned", None, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        """A failure, a cancellation, or an answer that the framework could not parse."""
        run = self.runs.end(run_id)
        if run is None or run.scope is None:
            return
        cancelled = type(error).__name__ in ("CancelledError", "GeneratorExit", "KeyboardInterrupt")
        outcome = "cancelled" if cancelled else "raised"
        self._send(run, run.scope, outcome, exception_text(error), more.get("response"))

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> None:
        """A tool begins, perhaps because a call asked for it."""
        run = Run(run_id, parent_run_id, more.get("metadata") or {}, more.get("tool_call_id"), is_tool=True)
        run.scope, run.started_at = current_scope(), time.time()
        arguments = more.get("inputs")
        run.request = {
            "name": more.get("name") or (serialized or {}).get("name") or "",
            "arguments": input_str if arguments is None else _readable(arguments),
        }
        self.runs.begin_tool(run)

    def on_tool_end(self, output: Any, *, run_id: UUID, **more: Any) -> None:
        """Send the tool's result, under the call that asked for it."""
        run = self.runs.get(run_id)
        node = _goes_to(output)
        if run is None or node is None:
            self._send_tool(self.runs.end(run_id), _readable(getattr(output, "content", output)), None)
            return
        self.runs.handed_off(run, node)
        self._send_tool(self.runs.end(run_id), node, None, handoff=True)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        """Send the tool's failure."""
        self._send_tool(self.runs.end(run_id), None, exception_text(error))

    def _send_tool(self, run: Run | None, result: Any, error: str | None, *, handoff: bool = False) -> None:
        if run is None or run.scope is None or run.asker is None:
            return
        kind = "handoff" if handoff else "agent" if run.ran_agent else "function"
        told = {"kind": kind, "result": result, "error": error, "finished_at": time.time()}
        recorder.record(run.scope, partial(_tool_record, run.asker, run, run.scope, told))

    def _send(self, run: Run, scope: Scope, outcome: Any, error: str | None, response: LLMResult | None) -> None:
        if scope.gateway:
            # It is among the latest, or its model passes through.
            if run.call_id is not None and run.call_id in reversed(scope.call_ids):
                recorder.record(scope, partial(_outcome_record, run.call_id, run, scope, outcome, error))
            return
        structure = self.runs.structure(run).model_copy(update={"outcome": outcome, "error": error})
        status: CallStatus = "ok" if outcome == "returned" else "cancelled" if outcome == "cancelled" else "error"
        attempt = Attempt(
            number=0,
            status=status,
            started_at=run.started_at,
            latency_ms=(time.time() - run.started_at) * 1000,
            error=error,
            choices=_choices(response),
            usage=_usage(response),
        )
        call_id = run.call_id or new_id()
        request = _request(run.request or {})
        call = _partial(call_id, run, scope, structure=structure, request=request, attempts=(attempt,))
        scope.call_ids.append(call_id)
        recorder.record(scope, call)


def _tool_record(asker: str, run: Run, scope: Scope, told: dict[str, Any]) -> Call:
    asked = run.request or {}
    use = ToolUse(id=str(run.id), tool_call_id=run.tool_call_id, started_at=run.started_at, **asked, **told)
    return _partial(asker, run, scope, tools=(use,))


def _outcome_record(call_id: str, run: Run, scope: Scope, outcome: Any, error: str | None) -> Call:
    return _partial(call_id, run, scope, structure=Structure(outcome=outcome, error=error))


def _partial(call_id: str, run: Run, scope: Scope, **fields: Any) -> Call:
    mine = {"rollout_id": scope.rollout_id, "attempt": scope.attempt, "started_at": run.started_at}
    return Call(id=call_id, captured_by=("adapter",), **mine, **fields)


def _goes_to(output: Any) -> str | None:
    """The agent that a tool's result hands off to: LangGraph's `Command(goto=…, graph=Command.PARENT)`."""
    if isinstance(output, str | BaseMessage):  # nearly all; and a message is slow to say what it lacks
        return None
    if getattr(output, "graph", None) != "__parent__":
        return None
    goto = getattr(output, "goto", None)
    if isinstance(goto, list | tuple) and len(cast("list[Any]", goto)) == 1:
        goto = cast("list[Any]", goto)[0]
    return goto if isinstance(goto, str) and goto else None


def _tool_call_ids(response: LLMResult) -> list[str]:
    messages = [getattr(generation, "message", None) for some in response.generations for generation in some]
    return [call["id"] for message in messages for call in getattr(message, "tool_calls", ()) if call.get("id")]


def _readable(value: Any) -> Any:
    """What JSON can hold of a value, in a copy that nobody else changes."""
    if value is None or type(value) in (str, bool, int):
        return value
    return to_jsonable_python(value, serialize_unknown=True, inf_nan_mode="strings")


def _openai(message: Any) -> dict[str, Any]:
    if isinstance(message, str):
        return {"role": "prompt", "content": message}
    return _readable(convert_to_openai_messages(message))


def _request(request: dict[str, Any]) -> Request:
    asked = {name: _readable(v) for name, v in request.items() if name not in ("messages", "tools") and v is not None}
    messages = tuple(_openai(message) for message in request.get("messages", ()))
    return Request(messages=messages, tools=tuple(_readable(request.get("tools") or ())), asked=asked)


def _choices(response: LLMResult | None) -> tuple[Choice, ...]:
    if response is None:
        return ()
    choices: list[Choice] = []
    for generation in (generation for some in response.generations for generation in some):
        message = getattr(generation, "message", None)
        told = generation.generation_info or getattr(message, "response_metadata", None) or {}
        text: dict[str, Any] = {"role": "assistant", "content": generation.text}
        said = text if message is None else _openai(message)
        choices.append(Choice(message=said, finish_reason=told.get("finish_reason")))
    return tuple(choices)


def _usage(response: LLMResult | None) -> dict[str, Any] | None:
    for generation in (generation for some in (response.generations if response else []) for generation in some):
        usage = getattr(getattr(generation, "message", None), "usage_metadata", None)
        if usage:
            return _readable(usage)
    return None
