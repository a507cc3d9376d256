"""The adapter: shows every span of the process to the tree, and ties each HTTP request to the span that it is made in.

It hooks the spans themselves and not the tracing provider, so that tracing which is off stays off, the user's
processors stay the only ones, and no exporter hears of anything. Three more hooks give what spans lack.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from agents import FunctionToolResult, HandoffCallItem, HandoffOutputItem, ToolApprovalItem
from agents.models.interface import ModelTracing
from agents.tool_context import ToolContext
from agents.tracing.processors import BackendSpanExporter
from agents.tracing.spans import NoOpSpan, SpanImpl

from leyden.exception_text import exception_text
from leyden.keys import STAND_IN_KEY
from leyden.scope import Scope, current_scope
from leyden.types import Structure
from leyden_openai_agents.processor import LeydenTraceProcessor, tree

__all__ = ["OpenAIAgentsAdapter"]

_log = logging.getLogger("leyden")
_processor = LeydenTraceProcessor()


class OpenAIAgentsAdapter:
    """Implements `leyden.adapters.Adapter`."""

    name = "openai-agents"

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        """See `Adapter.install`."""
        if self._originals:
            return
        for span in (NoOpSpan, SpanImpl):
            self._patch(span, "start", functools.partial(_before, _processor.on_span_start))
            self._patch(span, "finish", functools.partial(_before, _processor.on_span_end))
            self._patch(span, "set_error", _with_error)
        for made, notice in _NOTICES.items():
            self._patch(made, "__init__", functools.partial(_after, notice))
        self._patch(ModelTracing, "include_data", _kept_for_us)
        self._patch(BackendSpanExporter, "api_key", _own_key)

    def _patch(self, owner: type, name: str, hooked: Callable[[Any], Any]) -> None:
        original = vars(owner)[name]
        self._originals.append((owner, name, original))
        setattr(owner, name, hooked(original))

    def uninstall(self) -> None:
        """See `Adapter.uninstall`."""
        while self._originals:
            setattr(*self._originals.pop())

    def structure(self) -> Structure | None:
        """See `Adapter.structure`."""
        node = tree.current()
        return None if node is None else tree.structure(node)

    def called(self, call_id: str, structure: Structure, scope: Scope) -> None:
        """See `Adapter.called`."""
        node = tree.current()
        if node is not None:
            tree.called(node, call_id)


def _before(notice: Callable[[Any], None], original: Any) -> Any:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        _guarded(notice, self)
        return original(self, *args, **kwargs)

    return method


def _after(notice: Callable[[Any], None], original: Any) -> Any:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _guarded(notice, self)

    return method


def _guarded(notice: Callable[..., None], *args: Any) -> None:
    try:
        notice(*args)
    except Exception as error:  # the capture boundary
        _log.exception("the adapter of the OpenAI Agents SDK failed")
        scope = current_scope()
        if scope is not None:
            scope.losses.append(f"the adapter of the OpenAI Agents SDK failed: {exception_text(error)}")


def _with_error(original: Any) -> Any:
    """A span whose tracing is off forgets its error, and one whose tracing is on may be told less than there is."""

    @functools.wraps(original)
    def set_error(self: Any, error: Any) -> None:
        _guarded(tree.failed, self, error)
        original(self, error)

    return set_error


def _note_tool_call(context: Any) -> None:
    """The SDK makes the tool's context right within the tool's span, in the task that runs the tool."""
    node = tree.current()
    if node is not None and node.kind == "function" and node.tool_call_id is None:
        tree.tool_begins(node, context.tool_call_id)


def _note_tool_result(result: Any) -> None:
    node = tree.current()
    if node is not None and node.kind == "function" and isinstance(result.run_item, ToolApprovalItem):
        tree.tool_waits(node)


def _note_handoff_call(item: Any) -> None:
    node = tree.current()
    turn = None if node is None else node.above("turn", "agent")
    if turn is not None:
        turn.asked[item.raw_item.call_id] = (item.raw_item.name, item.raw_item.arguments)


def _note_handoff(item: Any) -> None:
    """The SDK notes a handoff right within the handoff's span."""
    node = tree.current()
    if node is None or node.kind != "handoff" or node.tool_call_id is not None:
        return
    node.tool_call_id = item.raw_item["call_id"]
    turn = node.above("turn", "agent")
    if turn is not None:
        node.name, node.arguments = turn.asked.get(item.raw_item["call_id"], (None, None))


_NOTICES: dict[type, Callable[[Any], None]] = {
    ToolContext: _note_tool_call,
    FunctionToolResult: _note_tool_result,
    HandoffCallItem: _note_handoff_call,
    HandoffOutputItem: _note_handoff,
}


def _kept_for_us(original: Any) -> Any:
    """A run whose tracing is off keeps no messages in its spans; without a gateway nobody else has them."""

    @functools.wraps(original)
    def include_data(self: ModelTracing) -> bool:
        scope = current_scope()
        return original(self) or (self is ModelTracing.DISABLED and scope is not None and not scope.gateway)

    return include_data


def _own_key(original: Any) -> property:
    """Where a worker gave the environment a key that is not the user's, the SDK's exporter must not send with it."""

    def api_key(self: BackendSpanExporter) -> str | None:
        key = original.__get__(self, type(self))
        scope = current_scope()
        return None if key == STAND_IN_KEY or (scope is not None and key == scope.key) else key

    def set_api_key(self: BackendSpanExporter, key: str | None) -> None:
        if isinstance(original, functools.cached_property):  # before 0.22 of the SDK
            vars(self)["api_key"] = key
        else:
            original.__set__(self, key)

    return property(api_key, set_api_key)
