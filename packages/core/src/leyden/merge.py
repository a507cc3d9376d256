"""How two partial records of one call become one: field by field, None and empty yield to a value.

The only place that decides what a conflict is. Merging is idempotent and, where nothing conflicts, commutative and
associative, so that records may arrive in any order and more than once.
"""

from typing import TypeVar

from pydantic import BaseModel

from leyden.errors import Conflict
from leyden.types import Attempt, Call, ToolUse

__all__ = ["merge"]

M = TypeVar("M", bound=BaseModel)


def merge(old: Call, new: Call) -> Call:
    """The union of two records of the same call.

    Raises:
        Conflict: both set the same field to different content, or they belong to different rollouts or attempts.
    """
    if (old.id, old.rollout_id, old.attempt) != (new.id, new.rollout_id, new.attempt):
        raise Conflict(
            f"call {new.id} belongs to attempt {old.attempt} of rollout {old.rollout_id}, got attempt {new.attempt} "
            f"of {new.rollout_id}; a call id is never used twice"
        )
    return Call(
        id=old.id,
        rollout_id=old.rollout_id,
        attempt=old.attempt,
        started_at=min(old.started_at, new.started_at),
        captured_by=tuple(sorted({*old.captured_by, *new.captured_by})),
        request=_fields(old.request, new.request, f"request of call {old.id}"),
        attempts=_attempts(old, new),
        structure=_fields(old.structure, new.structure, f"structure of call {old.id}"),
        tools=_tools(old, new),
        context=old.context or new.context,
    )


def _fields(old: M | None, new: M | None, what: str) -> M | None:
    if old is None or new is None or old == new:
        return new if old is None else old
    values = {
        name: _value(getattr(old, name), getattr(new, name), f"{what}, {name}") for name in type(old).model_fields
    }
    return type(old).model_construct(**values)


def _value(old: object, new: object, what: str) -> object:
    if _unknown(new) or old == new:
        return old
    if _unknown(old):
        return new
    raise Conflict(f"{what} was recorded as {str(old)[:200]!r} and came again as {str(new)[:200]!r}; the first stays")


def _unknown(value: object) -> bool:
    return value is None or value in ((), {}, "")


def _attempts(old: Call, new: Call) -> tuple[Attempt, ...]:
    """Attempts by id; an HTTP attempt whose client does not count its retries gets the next free number."""
    attempts = {attempt.id: attempt for attempt in old.attempts}
    for attempt in new.attempts:
        known = attempts.get(attempt.id)
        if known is None:
            attempts[attempt.id] = attempt
        elif known.model_copy(update={"number": attempt.number}) != attempt:
            raise Conflict(f"attempt {attempt.id} of call {old.id} came again with other content; the first stays")
    return _numbered(sorted(attempts.values(), key=lambda attempt: (attempt.number, attempt.started_at, attempt.id)))


def _numbered(attempts: list[Attempt]) -> tuple[Attempt, ...]:
    if len({attempt.number for attempt in attempts}) == len(attempts):
        return tuple(attempts)
    in_time = sorted(attempts, key=lambda attempt: (attempt.started_at, attempt.id))
    return tuple(attempt.model_copy(update={"number": number}) for number, attempt in enumerate(in_time))


def _tools(old: Call, new: Call) -> tuple[ToolUse, ...]:
    tools = {tool.id: tool for tool in old.tools}
    for tool in new.tools:
        merged = _fields(tools.get(tool.id), tool, f"tool use {tool.id} of call {old.id}")
        assert merged is not None
        tools[tool.id] = merged
    return tuple(sorted(tools.values(), key=lambda tool: (tool.started_at or 0.0, tool.id)))
