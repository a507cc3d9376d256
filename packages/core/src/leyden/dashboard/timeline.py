"""A rollout's outline as rows over time: agents, calls with their nodes, tools and handoffs, each from when to when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from leyden.continuity import rows
from leyden.outline import Agent, Made, Node, outline
from leyden.said import shortened, text
from leyden.types import Call, ToolUse

__all__ = ["Part", "TrainedRow", "TimeRow", "made_calls", "time_rows", "trained_rows"]

_DEEPEST = 8
_LONGEST = 160


@dataclass(frozen=True)
class TimeRow:
    """One line of the time line. Times are UNIX seconds; None where nobody noted them."""

    depth: int
    kind: Literal["agent", "call", "tool", "handoff"]
    label: str
    status: str
    """ok, error, cancelled, dangling; empty for an agent."""
    began: float | None
    ended: float | None
    made: Made | None = None
    x: float = 0.0
    """Where its bar begins and how wide it is, of 1000."""
    width: float = 0.0

    @property
    def seconds(self) -> float | None:
        return self.ended - self.began if self.began is not None and self.ended is not None else None


def time_rows(calls: Sequence[Call]) -> list[TimeRow]:
    """The rows from the top, with their bars on one scale."""
    found = list(_flat(outline(calls), 0))
    times = [at for row in found for at in (row.began, row.ended) if at is not None]
    if not times:
        return found
    first, span = min(times), max(max(times) - min(times), 1e-6)
    return [_placed(row, first, span) for row in found]


def _placed(row: TimeRow, first: float, span: float) -> TimeRow:
    if row.began is None:
        return row
    x = 1000 * (row.began - first) / span
    width = 1000 * ((row.ended or row.began) - row.began) / span
    return replace(row, x=round(min(x, 997.0), 1), width=round(max(width, 3.0), 1))


def _flat(nodes: Sequence[Node], depth: int) -> Iterator[TimeRow]:
    for node in nodes:
        below = list(_flat(node.below, min(depth + 1, _DEEPEST)))
        if isinstance(node, Agent):
            began = min((row.began for row in below if row.began is not None), default=None)
            ended = max((row.ended for row in below if row.ended is not None), default=None)
            yield TimeRow(depth, "agent", node.name, "", began, ended)
        elif isinstance(node, Made):
            yield _call_row(node, depth)
        else:
            yield _tool_row(node.use, depth)
        yield from below


def _call_row(made: Made, depth: int) -> TimeRow:
    call = made.call
    ended = max((a.started_at + a.latency_ms / 1000 for a in call.attempts), default=None)
    known = call.structure
    node = f" at {known.node}" if known is not None and known.node and known.node not in known.agent else ""
    label = f"call {made.number}{node}"
    return TimeRow(depth, "call", label, call.status or "dangling", call.started_at, ended, made)


def _tool_row(use: ToolUse, depth: int) -> TimeRow:
    status = "error" if use.error else "ok"
    if use.kind == "handoff":
        return TimeRow(depth, "handoff", f"{use.name} → {text(use.result)}", status, use.started_at, use.finished_at)
    label = shortened(f"{use.name}({text(use.arguments)})", _LONGEST)
    return TimeRow(depth, "tool", label, status, use.started_at, use.finished_at)


def made_calls(calls: Sequence[Call]) -> list[Made]:
    """The calls in the order in which they were made, each with its number and what of its messages is new."""
    found = [row.made for row in _flat(outline(calls), 0) if row.made is not None]
    return sorted(found, key=lambda made: made.number)


@dataclass(frozen=True)
class Part:
    """The tokens [start, stop) of a row, sampled by a call; places of 1000 for its bar."""

    number: int
    start: int
    stop: int
    x: float
    width: float


@dataclass(frozen=True)
class TrainedRow:
    """One training row, and which calls' answers are trained in it."""

    tokens: int
    parts: list[Part]

    @property
    def trained(self) -> int:
        return sum(part.stop - part.start for part in self.parts)


def trained_rows(calls: Sequence[Call]) -> list[TrainedRow]:
    """The rows that the calls become, by exact token prefix."""
    numbers = {call.id: number for number, call in enumerate(calls, 1)}
    answers = {call.id: call.answer for call in calls}
    found: list[TrainedRow] = []
    for row in rows(calls):
        parts: list[Part] = []
        for call_id, place in row.calls:
            answer = answers[call_id]
            assert answer is not None
            start = len(answer.prompt_token_ids or ())
            stop = start + len(answer.choices[place].token_ids or ())
            scale = 1000 / len(row.tokens)
            width = round(max((stop - start) * scale, 2), 1)
            parts.append(Part(numbers[call_id], start, stop, round(start * scale, 1), width))
        found.append(TrainedRow(len(row.tokens), parts))
    return found
