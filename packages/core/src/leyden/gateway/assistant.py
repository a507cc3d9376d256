"""The assistant's side of a chat, for the doors: read from the policy's answers and chunks, written into requests.

Unlike an SDK's types it is checked where it enters: what cannot be read is the policy's fault, and `BadInput`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leyden.errors import BadInput
from leyden.gateway.json_text import is_object, is_objects

__all__ = ["CallPiece", "Piece", "assistant_message", "piece_of", "tool_call"]


@dataclass(frozen=True)
class CallPiece:
    """A part of one tool call. Id and name come with its first part."""

    number: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Piece:
    """What one choice of a chunk adds; of a whole answer, all of it."""

    reasoning: str
    content: str
    calls: tuple[CallPiece, ...]
    logprobs: tuple[dict[str, Any], ...]


def piece_of(choice: dict[str, Any]) -> Piece:
    """What this choice says; `BadInput` if it is not of chat's form."""
    said: dict[str, Any] = choice.get("delta") or choice.get("message") or {}
    calls = _objects(said, "tool_calls")
    logprobs: dict[str, Any] = choice.get("logprobs") or {}
    return Piece(
        # vLLM's name, and the older one that others use
        reasoning=_text(said, "reasoning") or _text(said, "reasoning_content"),
        content=_text(said, "content"),
        calls=tuple(_call_piece(call, number) for number, call in enumerate(calls)),
        logprobs=tuple(_objects(logprobs, "content")),
    )


def assistant_message(
    content: str | None, reasoning: str | None = None, tool_calls: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The model's own message as it is sent back to it."""
    message: dict[str, Any] = {"role": "assistant", "content": content or ""}
    if reasoning:
        # vLLM reads the first name, SGLang and most chat templates the second.
        message |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    return message


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """One tool call of such a message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _call_piece(call: dict[str, Any], number: int) -> CallPiece:
    function = call.get("function")
    if not is_object(function):
        raise BadInput(f"a tool call without a function: {str(call)[:120]}")
    index: Any = call.get("index", number)
    return CallPiece(index, _text(call, "id"), _text(function, "name"), _text(function, "arguments"))


def _text(owner: dict[str, Any], name: str) -> str:
    value = owner.get(name)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{name} that is no text: {str(value)[:80]}")
    return value or ""


def _objects(owner: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value: Any = owner.get(name) or []
    if not is_objects(value):
        raise BadInput(f"{name} that is no list of objects: {str(value)[:80]}")
    return value
