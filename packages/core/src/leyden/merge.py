"""How two partial records of one call become one: field by field, None and empty yield to a value.

The only place that decides what a conflict is. Merging is idempotent and, where nothing conflicts, commutative and
associative, so that records may arrive in any order and more than once.
"""

from typing import Any, TypeVar

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
    if old is None or new is None:
        return new if old is None else old
    return _filled(old, new, what)


def _filled(old: M, new: M, what: str) -> M:
    if old == new:
        return old
    values: dict[str, Any] = {
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
    known: dict[str, Attempt] = {}
    for attempt in (*old.attempts, *new.attempts):
        twin = known.get(attempt.id) or next((one for one in known.values() if _is_twin(one, attempt)), attempt)
        if twin.model_copy(update={"id": attempt.id, "number": attempt.number}) != attempt:
            raise Conflict(f"attempt {attempt.id} of call {old.id} came again with other content; the first stays")
        known.pop(twin.id, None)
        name, number = min(twin.id, attempt.id), max(twin.number, attempt.number)
        known[name] = twin.model_copy(update={"id": name, "number": number})
    return _numbered(list(known.values()))


def _is_twin(one: Attempt, other: Attempt) -> bool:
    """Whether they differ in nothing but the id: a record that was written twice."""
    return one.number == other.number and one.model_copy(update={"id": other.id}) == other


def _numbered(attempts: list[Attempt]) -> tuple[Attempt, ...]:
    """By number; where two have the same, by time, and a number that is taken moves up."""
    if len({attempt.number for attempt in attempts}) == len(attempts):
        return tuple(sorted(attempts, key=lambda attempt: attempt.number))
    numbered: list[Attempt] = []
    for attempt in sorted(attempts, key=lambda attempt: (attempt.started_at, attempt.id)):
        number = max(attempt.number, numbered[-1].number + 1) if numbered else attempt.number
        numbered.append(attempt.model_copy(update={"number": number}))
    return tuple(numbered)


def _tools(old: Call, new: Call) -> tuple[ToolUse, ...]:
    tools: dict[str, ToolUse] = {}
    for tool in (*old.tools, *new.tools):
        known = tools.get(tool.id, tool)
        tools[tool.id] = _filled(known, tool, f"tool use {tool.id} of call {old.id}")
    return tuple(sorted(tools.values(), key=lambda tool: (tool.started_at is None, tool.started_at, tool.id)))
