"""Server-sent events, as far as OpenAI's streams use them: the `data` of each event, from bytes cut anywhere.

Left out: event names, ids, retry times, and lines that end in a lone carriage return; no model server sends those.
"""

__all__ = ["DONE", "EventParser", "event"]

DONE = b"[DONE]"


class EventParser:
    """Feed it bytes as they come; it gives the data of the events that are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """The events that `received` completes. An event ends at its empty line; what comes without one is no event."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        events: list[bytes] = []
        for line in lines:
            text = line.removesuffix(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].removeprefix(b" "))
            elif not text and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


def event(data: bytes, name: str | None = None) -> bytes:
    """One event with this data (one line), and with a name in the APIs that name their events."""
    named = b"" if name is None else b"event: " + name.encode() + b"\n"
    return named + b"data: " + data + b"\n\n"
