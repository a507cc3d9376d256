"""The doors for chat completions and completions: the policy's own API, so that nothing is translated."""

from dataclasses import dataclass
from typing import Any

from leyden.gateway.asked import Asked, parse
from leyden.gateway.caller import Caller
from leyden.gateway.fault import Fault
from leyden.gateway.json_text import dump
from leyden.gateway.sse import DONE, event
from leyden.store.protocol import Store

__all__ = ["OpenAIDoor"]


class _Reply:
    """The policy's answer as it is."""

    verbatim = True

    def whole(self, body: dict[str, Any]) -> bytes:
        return dump(body)

    def opening(self) -> bytes:
        return b""

    def chunk(self, body: dict[str, Any]) -> bytes:
        return event(dump(body))

    def closing(self) -> bytes:
        return event(DONE)

    def failure(self, error: Fault) -> bytes:
        return event(error.body)


@dataclass(frozen=True)
class OpenAIDoor:
    """Chat completions or completions."""

    path: str

    async def ask(self, raw: bytes, caller: Caller, store: Store) -> tuple[Asked, _Reply]:
        return parse(self.path, raw), _Reply()

    def refusal(self, error: Fault) -> Fault:
        return error
