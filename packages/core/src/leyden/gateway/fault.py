"""A failure as the agent's OpenAI client shall see it: HTTP status and OpenAI's error object.

It is not part of the error tree, because nobody catches it but the gateway, which records and answers it.
"""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["Fault", "error_object", "mark_overflow"]

_OVERFLOW = "context_length_exceeded"
_OVERFLOW_WORDS = ("context length", "maximum model length", "context window", _OVERFLOW)


class Fault(Exception):
    """What the agent gets instead of an answer.

    Args:
        status: HTTP status; OpenAI clients retry 408, 409, 429 and from 500 on.
        message: what, which id, what came, what was expected, what to do.
        kind: OpenAI's `type`; `code` is machine-readable too.
        body: the exact body to answer with, when the policy server wrote it.
        headers: to pass on with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.body = body or json.dumps({"error": error_object(message, kind, code)}).encode()
        self.headers = {"content-type": "application/json", **(headers or {})}

    @property
    def error(self) -> dict[str, Any]:
        """The error object alone, for a stream that has begun."""
        return error_object(self.message, self.kind, None)


def error_object(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"message": message, "type": kind, "param": None, "code": code}


def mark_overflow(error: dict[str, Any]) -> bool:
    """Give an error about the context's length OpenAI's code for it; whether it is one."""
    told = f"{error.get('code')} {error.get('message')}".lower()
    if not any(words in told for words in _OVERFLOW_WORDS):
        return False
    error["code"] = _OVERFLOW
    return True
