"""The calls of a rollout as one tree, whatever the framework: agents by path, calls under them, tools under the calls.

What a tool led to (a sub-agent, a model that it asked by itself) lies under that tool. Calls are numbered in the order
in which they were made, since the tree cannot show it where branches ran in parallel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.said import content
from leyden.types import Call, ToolUse

__all__ = ["Agent", "Made", "Node", "Told", "Used", "outline"]


@dataclass
class Agent:
    """An agent, and what it did."""

    name: str
    below: "list[Node]" = field(default_factory=list["Node"])


@dataclass(frozen=True)
class Told:
    """A call's messages begin with all those of an earlier call, and maybe its answer."""

    number: int
    """Of the earlier call."""
    messages: int
    """How many messages of it come again."""
    answer: bool
    """Whether its answer follows them."""

    @property
    def count(self) -> int:
        """How many messages are not new."""
        return self.messages + self.answer


@dataclass
class Made:
    """A call, what it led to, and what of its messages is new."""

    number: int
    call: Call
    handed_off_by: int | None = None
    told: Told | None = None
    below: "list[Node]" = field(default_factory=list["Node"])

    @property
    def new_messages(self) -> tuple[dict[str, Any], ...]:
        messages = self.call.request.messages if self.call.request else ()
        return messages[self.told.count :] if self.told else messages


@dataclass
class Used:
    """A tool that a call used, and what happened within it."""

    use: ToolUse
    below: "list[Node]" = field(default_factory=list["Node"])


Node = Agent | Made | Used


@dataclass
class _Place:
    """A spot where calls go: the top, or what a tool did. The agents that are open are those of the last call."""

    below: list[Node]
    above: tuple[str, ...] = ()
    """Agents that need not be named again here."""
    open: list[Agent] = field(default_factory=list[Agent])

    def of_agent(self, path: tuple[str, ...]) -> list[Node]:
        """The list of this agent; the place's own for a call that no adapter explains."""
        kept = self.above if path[: len(self.above)] == self.above else self.above[:-1]
        names = path[len(kept) :] if path[: len(kept)] == kept else path
        same = 0
        while same < min(len(names), len(self.open)) and names[same] == self.open[same].name:
            same += 1
        del self.open[same:]
        for name in names[same:]:
            agent = Agent(name)
            (self.open[-1].below if self.open else self.below).append(agent)
            self.open.append(agent)
        return self.open[-1].below if self.open else self.below


def outline(calls: Sequence[Call]) -> list[Node]:
    """The tree of the calls, which come in the order in which they were made."""
    grown = _Outline()
    for call in calls:
        grown.add(call)
    return grown.top.below


class _Outline:
    def __init__(self) -> None:
        self.top = _Place([])
        self._made: dict[str, Made] = {}
        self._places: dict[str, _Place] = {}
        """Where a call lies, and, by the tool use's id too, what lies under it."""

    def add(self, call: Call) -> None:
        path = call.structure.agent if call.structure else ()
        place = self._place(call)
        made = Made(len(self._made) + 1, call, self._handed_off_by(call), self._told(call))
        self._made[call.id], self._places[call.id] = made, place
        place.of_agent(path).append(made)
        self._places[f"under {call.id}"] = _Place(made.below, path)
        for use in call.tools:
            used = Used(use)
            made.below.append(used)
            self._places[use.id] = _Place(used.below, (*path, use.name))

    def _parent(self, call: Call) -> Made | None:
        return self._made.get((call.structure and call.structure.parent) or "")

    def _handed_off_by(self, call: Call) -> int | None:
        parent = self._parent(call)
        handed = parent is not None and any(use.kind == "handoff" for use in parent.call.tools)
        return parent.number if parent is not None and handed else None

    def _place(self, call: Call) -> _Place:
        """Where the call goes: beside the one that handed off to it, under the tool that led to it, or at the top."""
        made = self._parent(call)
        if call.structure is None or made is None:
            return self.top
        parent, agent = made.call, call.structure.agent
        if any(use.kind == "handoff" and agent[-1:] == (use.result,) for use in parent.tools):
            return self._places[parent.id]
        uses = [use for use in parent.tools if use.kind != "handoff"]
        named = [use for use in uses if use.kind == "agent" and use.name in agent]
        during = [use for use in uses if _during(use, call)]
        for found in (named, uses, during):
            if len(found) == 1:
                return self._places[found[0].id]
        return self._places[f"under {parent.id}"]

    def _told(self, call: Call) -> Told | None:
        """The latest call whose messages all come again."""
        for made in reversed(self._made.values()):
            other = made.call
            if call.request is None or other.request is None:
                continue
            known, messages = other.request.messages, call.request.messages
            if len(known) > 1 and messages[: len(known)] == known:
                said = [content(choice.message) for choice in (other.answer.choices if other.answer else ())]
                answer = len(messages) > len(known) and content(messages[len(known)]) in said
                return Told(made.number, len(known), answer)
        return None


def _during(use: ToolUse, call: Call) -> bool:
    """Whether the call began while the tool ran."""
    began, ended = use.started_at, use.finished_at
    return began is not None and began <= call.started_at and (ended is None or call.started_at <= ended)
