"""The tree of spans as the SDK opens and closes them, and what it says of who calls the model.

Unlike the SDK's own it also holds the spans of runs whose tracing is off, which have neither id nor parent: the parent
of a span is the one that was current when it started. A call's tools are those of the turn that the call was made in,
so that they need no ids to be found.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from agents.tracing.scope import Scope as Tracing

from leyden.exception_text import exception_text
from leyden.scope import Scope, current_scope
from leyden.types import Structure, new_id

__all__ = ["MODEL_SPANS", "Node", "Tree"]

MODEL_SPANS = ("generation", "response")
"""What the SDK calls a model request, by chat completions and by the Responses API."""
_OWN = ("function", "guardrail", "handoff")
"""Spans of the user's code: a request right within one is not the agent's."""


@dataclass(eq=False)
class Node:
    """One span."""

    data: Any
    """The SDK's span data, which it fills in until the end."""
    parent: "Node | None"
    scope: Scope | None
    surrounding: BaseException | None
    """The exception that was being handled when it started: not the span's own."""
    id: str = field(default_factory=new_id)
    started_at: float = field(default_factory=time.time)
    ended: bool = False
    error: str | None = None
    cancelled: bool = False
    call_id: str | None = None
    """Of a model request: its Leyden call."""
    latest_call: str | None = None
    """Of a turn or an agent: the latest call that the agent itself made in it."""
    led_by: str | None = None
    """Of an agent: the call that handed off to it, until its first answer."""
    handed: "tuple[str, str] | None" = None
    """Of what agents run in: the name of the agent that is next, and the call that handed off to it."""
    tool_call_id: str | None = None
    asked_by: str | None = None
    """Of a function that ran after the user had approved of it: the call that had asked for it, in an earlier run."""
    waits: bool = False
    """Of a function: it did not run, but waits for approval."""
    name: str | None = None
    """Of a handoff: the tool's name."""
    arguments: Any = None
    asked: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Of a turn: handoffs that were asked for, by tool call id: the tool's name and its arguments."""
    has_agent: bool = False
    """Of a function: an agent ran in it."""

    @property
    def kind(self) -> str:
        return self.data.type

    @property
    def answered(self) -> bool:
        """Of a model request: the answer is there. A stream is often closed right then, before its end."""
        return any(getattr(self.data, name, None) for name in ("usage", "output", "response"))

    def upwards(self) -> "Iterator[Node]":
        """The span and those that it is within."""
        current: Node | None = self
        while current is not None:
            yield current
            current = current.parent

    def above(self, *kinds: str) -> "Node | None":
        """The nearest of these kinds, perhaps the span itself."""
        return next((node for node in self.upwards() if node.kind in kinds), None)


class Tree:
    """The spans that are alive. None is kept for longer than the SDK keeps it."""

    def __init__(self) -> None:
        self._nodes: WeakKeyDictionary[Any, Node] = WeakKeyDictionary()
        self._roots: WeakKeyDictionary[Any, Node] = WeakKeyDictionary()
        """By trace, what agents run in where the user left out the SDK's task spans."""
        self._waiting: dict[tuple[str, int, str], str] = {}
        """By rollout, attempt and tool call id: who asked for a tool that waits for approval."""

    def begin(self, span: Any) -> None:
        """A span is about to start, and not yet current; again is once."""
        if span in self._nodes:
            return
        node = Node(span.span_data, self.current(), current_scope(), sys.exception())
        self._nodes[span] = node
        if node.kind == "agent":
            self._begin_agent(node)

    def _begin_agent(self, node: Node) -> None:
        tool = node.above(*_OWN)
        if tool is not None and tool.kind == "function":
            tool.has_agent = True
        stage = self._stage(node)
        if stage is not None and stage.handed is not None:
            name, call_id = stage.handed
            stage.handed = None
            node.led_by = call_id if name == node.data.name else None

    def _stage(self, agent: Node) -> Node | None:
        """What an agent and those that it hands off to run in: the SDK's task."""
        if agent.parent is not None:
            return agent.parent
        trace = Tracing.get_current_trace()
        if trace is None:
            return None
        return self._roots.setdefault(trace, Node(trace, None, None, None))

    def end(self, span: Any) -> Node | None:
        """A span is about to end; None if its start was not seen, or its end was."""
        node = self._nodes.get(span)
        if node is None or node.ended:
            return None
        node.ended = True
        if span.error is not None and node.error is None:
            self.failed(span, span.error)
        raised = sys.exception()
        if raised is None or raised is node.surrounding or (isinstance(raised, GeneratorExit) and node.answered):
            return node
        node.cancelled = isinstance(raised, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt)
        node.error = exception_text(raised)
        return node

    def failed(self, span: Any, error: Any) -> None:
        """Note an error: the exception if it is at hand, else the words of the SDK, which may leave out details."""
        node = self._nodes.get(span)
        if node is None:
            return
        raised = sys.exception()
        if node.kind == "function" and node.data.input is not None and raised not in (None, node.surrounding):
            node.error = exception_text(raised)
            return
        details: dict[str, Any] = error.get("data") or {}
        detail = details.get("error")
        node.error = f"{error['message']}: {detail}" if detail else str(error["message"])

    def get(self, span: Any) -> Node | None:
        """The node of a span."""
        return None if span is None else self._nodes.get(span)

    def current(self) -> Node | None:
        """The span that the running code is in."""
        return self.get(Tracing.get_current_span())

    def called(self, node: Node, call_id: str) -> None:
        """A model request was made right within this span."""
        if node.kind in MODEL_SPANS:
            node.call_id = call_id
        for above in node.upwards():
            if above.kind in _OWN:
                return
            if above.kind in ("turn", "agent"):
                above.latest_call = call_id
            if above.kind == "agent":
                return

    def answered(self, node: Node) -> None:
        """The agent got an answer: what it asks for next is its own doing, not a handoff's."""
        agent = node.above("agent")
        if agent is not None:
            agent.led_by = None

    def asker(self, node: Node) -> str | None:
        """The call whose answer asked for this tool run or handoff."""
        turn = node.above("turn", "agent")
        return node.asked_by or (turn.latest_call if turn is not None else None)

    def tool_begins(self, node: Node, tool_call_id: str) -> None:
        """A function span is this tool call's."""
        node.tool_call_id = tool_call_id
        if node.scope is not None and self.asker(node) is None:
            node.asked_by = self._waiting.pop((node.scope.rollout_id, node.scope.attempt, tool_call_id), None)

    def tool_waits(self, node: Node) -> None:
        """A tool needs the user's approval; if it is given, the tool runs in another run."""
        node.waits = True
        call_id = self.asker(node)
        if node.scope is not None and node.tool_call_id is not None and call_id is not None:
            self._waiting[node.scope.rollout_id, node.scope.attempt, node.tool_call_id] = call_id

    def handed_off(self, node: Node, call_id: str) -> None:
        """A handoff is complete: the next agent of this name in the same run was led to by this call."""
        agent = node.above("agent")
        stage = None if agent is None else self._stage(agent)
        if stage is not None:
            stage.handed = (node.data.to_agent, call_id)

    def structure(self, node: Node) -> Structure:
        """Who makes a model request in this span."""
        turn = node.above("turn", "agent")
        guardrail = node.above("guardrail")
        names = [above.data.name for above in node.upwards() if above.kind == "agent"]
        return Structure(
            framework="openai-agents",
            agent=tuple(reversed(names)),
            node=guardrail.data.name if guardrail is not None else None,
            step=turn.data.turn if turn is not None and turn.kind == "turn" else None,
            parent=self._parent(node),
            run_id=node.id if node.kind in MODEL_SPANS else None,
        )

    def _parent(self, node: Node) -> str | None:
        """The call that handed off to this agent, else the one whose tool all this runs in."""
        agent = node.above("agent", "function")
        if agent is not None and agent.led_by is not None:
            return agent.led_by
        tool = node.above("function")
        return None if tool is None else self.asker(tool)
