"""A failure as the agent's OpenAI client shall see it: HTTP status and OpenAI's error object.

It is not part of the error tree, because nobody catches it but the gateway, which records and answers it.
"""

import json
from collections.abc import Mapping
from typing import Any

from leyden.errors import BadInput, Conflict, Forbidden, LeaseLost, LeydenError, NoKey, NotFound, OverLimit

__all__ = ["Fault", "fault", "fault_of", "mark_overflow"]

_OVERFLOW = "context_length_exceeded"
_OVERFLOW_WORDS = ("context length", "maximum model length", "context window", _OVERFLOW)


_STATUS: tuple[tuple[type[LeydenError], int], ...] = (
    (BadInput, 400),
    (Conflict, 400),  # not 409, which OpenAI's clients try again
    (NoKey, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (LeaseLost, 410),
)


class Fault(Exception):
    """What the agent gets instead of an answer.

    Args:
        status: HTTP status; OpenAI clients retry 408, 409, 429 and from 500 on.
        error: OpenAI's error object; its message says what, which id, what came, what was expected, what to do.
        body: the exact body to answer with, if the policy server wrote it.
        headers: to pass on with it.
    """

    def __init__(
        self,
        status: int,
        error: Mapping[str, Any],
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(str(error.get("message")))
        self.status = status
        self.error = error
        self.body = body if body is not None else json.dumps({"error": error}).encode()
        self.headers = {"content-type": "application/json", **(headers or {})}


def fault(status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> Fault:
    """A fault of the gateway's own."""
    return Fault(status, {"message": message, "type": kind, "param": None, "code": code})


def fault_of(error: LeydenError) -> Fault:
    """The fault that tells the agent of an error of ours."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    if isinstance(error, OverLimit):
        status = error.status
    kind = "invalid_request_error" if status < 500 else "server_error"
    return fault(status, str(error), kind=kind, code=type(error).__name__)


def mark_overflow(error: dict[str, Any]) -> bool:
    """Give an error about the context's length OpenAI's code for it; whether it is one."""
    told = f"{error.get('code')} {error.get('message')}".lower()
    if not any(words in told for words in _OVERFLOW_WORDS):
        return False
    error["code"] = _OVERFLOW
    return True
