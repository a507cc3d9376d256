"""Who is calling: the rollout by its key, the call by the hook's headers.

A header that cannot be read never fails the call: it goes on without what the header would have said, and is logged.
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import unquote

from pydantic import ValidationError

from leyden.gateway.rollouts import Running
from leyden.types import Structure, new_id

__all__ = ["Caller", "caller_of", "calling"]

_log = logging.getLogger("leyden.gateway")
_MAX_ID = 200


@dataclass(frozen=True)
class Caller:
    """Identity of one attempt of one call."""

    call_id: str
    number: int
    """The client's retry count."""
    structure: Structure | None
    running: Running | None
    """None: unattributed."""
    attempt: int
    """The rollout's."""

    @property
    def rollout_id(self) -> str | None:
        return self.running.rollout.id if self.running else None


calling: ContextVar[Caller | None] = ContextVar("leyden_calling", default=None)
"""Whose call the running task serves, for the log."""


def caller_of(headers: Mapping[str, str], running: Running | None, attempt: int) -> Caller:
    """The caller that these request headers tell of (names are looked up in lower case)."""
    call_id = headers.get("x-leyden-call") or new_id()
    if len(call_id) > _MAX_ID:
        _log.warning(
            "X-Leyden-Call has %d characters, at most %d are allowed; the call got a new id", len(call_id), _MAX_ID
        )
        call_id = new_id()
    retries = headers.get("x-stainless-retry-count", "")
    number = int(retries) if retries.isascii() and retries.isdigit() and len(retries) < 7 else 0
    return Caller(call_id, number, _structure(headers.get("x-leyden-structure"), call_id), running, attempt)


def _structure(header: str | None, call_id: str) -> Structure | None:
    if header is None:
        return None
    try:
        return Structure.model_validate_json(unquote(header))
    except ValidationError as error:
        _log.warning("call %s: X-Leyden-Structure %.200r is ignored: %s", call_id, header, error)
        return None
