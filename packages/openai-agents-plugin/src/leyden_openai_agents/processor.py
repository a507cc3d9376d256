"""The trace processor: notes the tree of spans, and sends what only the SDK knows of each call.

With a gateway that is the outcome, the tools and the handoffs. Without one (registered by hand, or tracing) it is the
whole readable call, as the SDK's span has it; there are then no tokens.
"""

import json
import logging
import time
from typing import Any

from agents.tracing import TracingProcessor
from pydantic_core import to_jsonable_python

from leyden.recorder import recorder
from leyden.scope import Scope
from leyden.types import Attempt, Call, CallStatus, Structure, ToolUse, new_id
from leyden_openai_agents.readable import choices_of, readable, request_of
from leyden_openai_agents.tree import MODEL_SPANS, Node, Tree

__all__ = ["LeydenTraceProcessor", "tree"]

_log = logging.getLogger("leyden")
tree = Tree()
"""One for the process: spans reach it through the adapter, through processors, or both, and count once."""


class LeydenTraceProcessor(TracingProcessor):
    """Captures calls for the current rollout; outside any it does nothing. One serves all threads and tasks."""

    def on_trace_start(self, trace: Any) -> None:
        """Nothing: runs are told apart by their spans."""

    def on_trace_end(self, trace: Any) -> None:
        """Nothing, as above."""

    def on_span_start(self, span: Any) -> None:
        """Note where in the tree."""
        tree.begin(span)

    def on_span_end(self, span: Any) -> None:
        """Send what has become of it."""
        node = tree.end(span)
        if node is None or node.scope is None:
            return
        if node.kind in MODEL_SPANS:
            _send_call(node, node.scope)
        elif node.kind == "function":
            _send_tool(node, node.scope)
        elif node.kind == "handoff":
            _send_handoff(node, node.scope)

    def shutdown(self) -> None:
        """Nothing to shut down: the recorder's thread is a daemon, and runners flush it."""

    def force_flush(self) -> None:
        """As above."""


def _send_call(node: Node, scope: Scope) -> None:
    outcome = "cancelled" if node.cancelled else "returned" if node.error is None else "raised"
    if scope.gateway:
        if node.call_id in scope.call_ids:
            told = Structure(outcome=outcome, error=node.error)
            recorder.record(scope, _partial(node.call_id, node, scope, structure=told))
    else:
        _send_readable(node, scope, outcome)
    if outcome == "returned":
        tree.answered(node)


def _send_readable(node: Node, scope: Scope, outcome: str) -> None:
    if node.call_id is None:
        tree.called(node, new_id())
    assert node.call_id is not None
    status: CallStatus = {"returned": "ok", "cancelled": "cancelled"}.get(outcome, "error")  # type: ignore[assignment]
    attempt = Attempt(
        number=0,
        status=status,
        started_at=node.started_at,
        latency_ms=(time.time() - node.started_at) * 1000,
        error=node.error,
        choices=choices_of(node.data),
        usage=readable(node.data.usage) if node.data.usage else None,
    )
    structure = tree.structure(node).model_copy(update={"outcome": outcome, "error": node.error})
    request = request_of(node.data)
    scope.call_ids.append(node.call_id)
    recorder.record(
        scope, _partial(node.call_id, node, scope, structure=structure, request=request, attempts=(attempt,))
    )


def _send_tool(node: Node, scope: Scope) -> None:
    call_id = tree.asker(node)
    if call_id is None:
        _log.warning("the tool %s ran, but no call is known that asked for it; it is not on record", node.data.name)
    if call_id is None or node.waits:
        return
    use = ToolUse(
        id=node.id,
        kind="agent" if node.has_agent else "function",
        tool_call_id=node.tool_call_id,
        name=node.data.name,
        arguments=_arguments(node.data.input),
        result=readable(node.data.output),
        error=node.error,
        started_at=node.started_at,
        finished_at=time.time(),
    )
    recorder.record(scope, _partial(call_id, node, scope, tools=(use,)))


def _send_handoff(node: Node, scope: Scope) -> None:
    call_id = tree.asker(node)
    if call_id is None:
        return
    if node.data.to_agent is not None:
        tree.handed_off(node, call_id)
    use = ToolUse(
        id=node.id,
        kind="handoff",
        tool_call_id=node.tool_call_id,
        name=node.name or "",
        arguments=_arguments(node.arguments),
        result=node.data.to_agent,
        error=node.error,
        started_at=node.started_at,
        finished_at=time.time(),
    )
    recorder.record(scope, _partial(call_id, node, scope, tools=(use,)))


def _partial(call_id: str, node: Node, scope: Scope, **fields: Any) -> Call:
    mine = {"rollout_id": scope.rollout_id, "attempt": scope.attempt, "started_at": node.started_at}
    return Call(id=call_id, captured_by=("adapter",), **mine, **fields)


def _arguments(text: Any) -> Any:
    """The arguments as JSON, or as the text that the model wrote where that is none."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return to_jsonable_python(text, serialize_unknown=True)
