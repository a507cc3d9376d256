"""What a door is: one API in which agents may ask, translated to the policy's and back.

Unlike a proxy for each API, all doors share one life of an attempt (`Exchange`): a door reads requests and words
answers.
"""

from typing import Any, Protocol

from leyden.gateway.asked import Asked
from leyden.gateway.caller import Caller
from leyden.gateway.fault import Fault
from leyden.store.protocol import Store

__all__ = ["Door", "Reply"]


class Reply(Protocol):
    """One answer in the words of the API that it was asked in.

    It is given the policy's answer or chunks, without what the agent did not ask for. `BadInput` from `whole`, `chunk`
    or `closing` means that the policy answered what cannot be said in this API.
    """

    verbatim: bool
    """Whether the policy's words are this API's: where nothing is to be taken out, its bytes are passed on."""

    def whole(self, body: dict[str, Any]) -> bytes:
        """The body of an answer without a stream."""
        ...

    def opening(self) -> bytes:
        """The events before the first chunk of a stream."""
        ...

    def chunk(self, body: dict[str, Any]) -> bytes:
        """The events that say one chunk; empty if it says nothing in this API."""
        ...

    def closing(self) -> bytes:
        """The events after the last chunk. Like the last chunk they are said only when the record is committed."""
        ...

    def failure(self, error: Fault) -> bytes:
        """The last event of a stream that cannot go on."""
        ...


class Door(Protocol):
    """One API."""

    async def ask(self, raw: bytes, caller: Caller, store: Store) -> tuple[Asked, Reply]:
        """The request in `raw`, and how its answer is said.

        Raises:
            BadInput: it cannot be read, or asks for what is not served; the message says what.
            Fault: a refusal with a status of its own.
        """
        ...

    def refusal(self, error: Fault) -> Fault:
        """The same error in the shape that clients of this API read."""
        ...
