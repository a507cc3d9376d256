"""Whose fault was it? What an agent raised, sorted into data (the model's doing), infrastructure, and refusals."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from leyden.errors import LeydenError, Unattributed
from leyden.exception_text import exception_text
from leyden.types import Failure, FailureKind

__all__ = ["Verdict", "judge"]

_INFRASTRUCTURE_STATUS = {401, 403, 409, 410}
_OVERFLOW = "context_length_exceeded"
_CLIENTS = ("openai", "anthropic")


@dataclass(frozen=True)
class Verdict:
    """failed: data, with the failure reward. lost: to be tried again. incomplete: trying again would not help."""

    status: Literal["failed", "lost", "incomplete"]
    failure: Failure


def judge(error: BaseException) -> Verdict:
    """Sort by the first error of the chain of causes that tells."""
    for cause in _chain(error):
        if isinstance(cause, Unattributed):
            return Verdict("incomplete", _failure("infrastructure", cause))
        if _OVERFLOW in (getattr(cause, "code", None), getattr(cause, "error_code", None)):
            return Verdict("failed", _failure("context_overflow", cause))
        if _is_infrastructure(cause):
            return Verdict("lost", _failure("infrastructure", cause))
    return Verdict("failed", _failure("agent_error", error))


def _is_infrastructure(error: BaseException) -> bool:
    if isinstance(error, LeydenError):
        return True
    if not type(error).__module__.startswith(_CLIENTS):
        return False
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status in _INFRASTRUCTURE_STATUS
    # A plain APIError is an error event in the middle of a stream, which had begun with status 200.
    name = type(error).__name__
    return name == "APIError" or "Connection" in name or "Timeout" in name


def _failure(kind: FailureKind, error: BaseException) -> Failure:
    text = "".join(traceback.format_exception(error))
    return Failure(kind=kind, message=exception_text(error)[:2000], traceback=text[-20_000:])


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
