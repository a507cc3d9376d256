"""The output items of a response as they grow, from chat deltas; a whole message is one delta.

Unlike OpenAI's own streams, items stay open until the answer has ended and was recorded: text that follows a function
call still belongs to the one message, and no function call is done before it is on record.
"""

from typing import Any

from leyden.errors import BadInput
from leyden.gateway.assistant import CallPiece, Piece, piece_of

__all__ = ["Event", "Output"]

Event = dict[str, Any]
"""An event of the stream without its sequence number."""


class Output:
    """Items so far.

    Args:
        name: makes the items' ids.
        logprobs: whether the agent asked for them. The policy gives those of all its tokens, of function calls too.
    """

    def __init__(self, name: str, *, logprobs: bool) -> None:
        self.items: list[dict[str, Any]] = []
        self._name = name
        self._with_logprobs = logprobs
        self._logprobs: list[dict[str, Any]] = []
        self._reasoning: int | None = None
        self._message: int | None = None
        self._calls: dict[int, int] = {}
        """Index of the tool call → index of its item."""

    def take(self, choice: dict[str, Any]) -> list[Event]:
        """The events that one choice of a chat answer, or of a chunk, means.

        Raises:
            BadInput: it is not of chat's form, or a tool call came without id or name.
        """
        piece = piece_of(choice)
        logprobs = self._new_logprobs(piece)
        events = self._think(piece.reasoning) if piece.reasoning else []
        events += self._speak(piece.content, logprobs) if piece.content else []
        for call in piece.calls:
            events += self._call(call)
        return events

    def close(self, *, cut: bool) -> list[Event]:
        """End all items; the last one is incomplete if the answer was cut."""
        events = self._speak("", []) if not self.items else []
        for index, item in enumerate(self.items):
            item["status"] = "incomplete" if cut and index == len(self.items) - 1 else "completed"
            events += self._done(index, item)
        return events

    def _new_logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        if not self._with_logprobs:
            return []
        new: list[dict[str, Any]] = [
            {**token, "bytes": token.get("bytes") or [], "top_logprobs": token.get("top_logprobs") or []}
            for token in piece.logprobs
        ]
        self._logprobs += new
        return new

    def _add(self, item: dict[str, Any]) -> tuple[int, Event]:
        self.items.append(item)
        index = len(self.items) - 1
        empty: dict[str, Any] = {**item, "content": []} if "content" in item else dict(item)
        return index, {"type": "response.output_item.added", "output_index": index, "item": empty}

    def _of_item(self, kind: str, index: int, **fields: Any) -> Event:
        return {"type": kind, "item_id": self.items[index]["id"], "output_index": index, **fields}

    def _part_added(self, index: int) -> Event:
        part = dict(self.items[index]["content"][0])
        return self._of_item("response.content_part.added", index, content_index=0, part=part)

    def _think(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self._reasoning is None:
            content = [{"type": "reasoning_text", "text": ""}]
            item = {"id": f"rs_{self._name}", "type": "reasoning", "status": "in_progress"}
            self._reasoning, added = self._add({**item, "summary": [], "content": content})
            events += [added, self._part_added(self._reasoning)]
        self.items[self._reasoning]["content"][0]["text"] += text
        kind = "response.reasoning_text.delta"
        return [*events, self._of_item(kind, self._reasoning, content_index=0, delta=text)]

    def _speak(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events: list[Event] = []
        if self._message is None:
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"id": f"msg_{self._name}", "type": "message", "status": "in_progress", "role": "assistant"}
            self._message, added = self._add({**item, "content": [part]})
            events += [added, self._part_added(self._message)]
        if text:
            self.items[self._message]["content"][0]["text"] += text
            fields: dict[str, Any] = {"content_index": 0, "delta": text, "logprobs": logprobs}
            events.append(self._of_item("response.output_text.delta", self._message, **fields))
        return events

    def _call(self, call: CallPiece) -> list[Event]:
        events: list[Event] = []
        if call.number not in self._calls:
            if not call.id or not call.name:
                raise BadInput(f"a tool call without id or name: {call}")
            item = {"id": f"fc_{self._name}_{call.number}", "type": "function_call", "status": "in_progress"}
            self._calls[call.number], added = self._add(
                {**item, "call_id": call.id, "name": call.name, "arguments": ""}
            )
            events.append(added)
        index = self._calls[call.number]
        if call.arguments:
            self.items[index]["arguments"] += call.arguments
            events.append(self._of_item("response.function_call_arguments.delta", index, delta=call.arguments))
        return events

    def _done(self, index: int, item: dict[str, Any]) -> list[Event]:
        ended: Event = {"type": "response.output_item.done", "output_index": index, "item": item}
        if item["type"] == "function_call":
            fields = {"name": item["name"], "arguments": item["arguments"]}
            return [self._of_item("response.function_call_arguments.done", index, **fields), ended]
        part = item["content"][0]
        told = {"content_index": 0, "text": part["text"]}
        if item["type"] == "reasoning":
            said = self._of_item("response.reasoning_text.done", index, **told)
        else:
            part["logprobs"] = self._logprobs
            said = self._of_item("response.output_text.done", index, **told, logprobs=self._logprobs)
        return [said, self._of_item("response.content_part.done", index, content_index=0, part=part), ended]
