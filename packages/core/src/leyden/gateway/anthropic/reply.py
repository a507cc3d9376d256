"""A chat answer said as an Anthropic message: whole, or as its stream's events.

What a reasoning parser took out of the text is not said, as a thinking block needs its provider's signature; it is on
record. Tool arguments that are no JSON object are said as the text that the policy wrote, never repaired.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from leyden.errors import BadInput
from leyden.gateway.assistant import CallPiece, piece_of
from leyden.gateway.fault import Fault
from leyden.gateway.json_text import dump, load_object
from leyden.gateway.sse import event

__all__ = ["MessagesReply", "error_body"]

_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_body(error: Fault) -> bytes:
    """The error in Anthropic's shape; the code, where there is one, under details.error_code."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told: dict[str, Any] = {"type": kind, "message": str(error)}
    if error.error.get("code") is not None:
        told["details"] = {"error_code": str(error.error["code"])}
    return dump({"type": "error", "error": told})


class MessagesReply:
    """The answer to one Messages request."""

    verbatim = False

    def __init__(self, asked: Mapping[str, Any], call_id: str) -> None:
        self._stop_sequences: Sequence[Any] = asked.get("stop_sequences") or ()
        self._blocks: list[dict[str, Any]] = []
        """In them the input of a tool_use is the text of its arguments until the answer has ended."""
        self._calls: dict[int, int] = {}
        """Index of the tool call → index of its block."""
        self._stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        self._usage: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}
        self._head = {"id": f"msg_{call_id}", "type": "message", "role": "assistant", "model": asked.get("model")}

    def whole(self, body: dict[str, Any]) -> bytes:
        self._take(body)
        return dump(self._message([_ended(block) for block in self._blocks]))

    def opening(self) -> bytes:
        return _said([{"type": "message_start", "message": self._message([])}])

    def chunk(self, body: dict[str, Any]) -> bytes:
        return _said(self._take(body))

    def closing(self) -> bytes:
        last = {"type": "message_delta", "delta": self._stop, "usage": self._usage}
        return _said([*self._close_block(), last, {"type": "message_stop"}])

    def failure(self, error: Fault) -> bytes:
        return event(error_body(error), "error")

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "content": content, **self._stop, "usage": self._usage}

    def _take(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        for choice in body.get("choices") or ():
            piece = piece_of(choice)
            events += self._speak(piece.content) if piece.content else []
            for call in piece.calls:
                events += self._call(call)
            if choice.get("finish_reason"):
                self._stop = self._stopped(choice)
        if body.get("usage"):
            self._usage = _usage(body["usage"])
        return events

    def _speak(self, text: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if not self._blocks or self._blocks[-1]["type"] != "text":
            events += self._open_block({"type": "text", "text": ""})
        self._blocks[-1]["text"] += text
        return [*events, self._delta(len(self._blocks) - 1, {"type": "text_delta", "text": text})]

    def _call(self, call: CallPiece) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if call.number not in self._calls:
            if not call.id or not call.name:
                raise BadInput(f"a tool call without id or name: {call}")
            events += self._open_block({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
            self._calls[call.number] = len(self._blocks) - 1
            self._blocks[-1]["input"] = ""
        index = self._calls[call.number]
        self._blocks[index]["input"] += call.arguments
        if call.arguments:
            events.append(self._delta(index, {"type": "input_json_delta", "partial_json": call.arguments}))
        return events

    def _open_block(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        events = self._close_block()
        self._blocks.append(dict(block))
        return [*events, {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": block}]

    def _close_block(self) -> list[dict[str, Any]]:
        return [{"type": "content_block_stop", "index": len(self._blocks) - 1}] if self._blocks else []

    @staticmethod
    def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    def _stopped(self, choice: dict[str, Any]) -> dict[str, Any]:
        by = choice.get("stop_reason")
        if isinstance(by, str) and by in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": by}
        reason = _STOP_REASONS.get(choice["finish_reason"], "end_turn")
        # Some servers say "stop" after tool calls.
        return {"stop_reason": "tool_use" if reason == "end_turn" and self._calls else reason, "stop_sequence": None}


def _ended(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] != "tool_use":
        return block
    try:
        return {**block, "input": load_object((block["input"] or "{}").encode())}
    except BadInput:
        return block


def _said(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(event(dump(told), told["type"]) for told in events)


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic counts the tokens read from the prefix cache apart."""
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or 0
    return {
        "input_tokens": (usage.get("prompt_tokens") or 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
