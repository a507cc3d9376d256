"""The items of a Responses request as chat messages.

What the model once said in one answer (reasoning, text, function calls) comes as several items and goes back into one
assistant message: so the prompt of the next turn begins with this turn's tokens, and the turns merge.
"""

from collections.abc import Sequence
from typing import Any

from leyden.errors import BadInput
from leyden.gateway.assistant import assistant_message, tool_call
from leyden.gateway.json_text import is_objects
from leyden.gateway.parts import chat_content, text_of

__all__ = ["chat_messages"]

_ROLES = {"user": "user", "system": "system", "developer": "system"}
"""`developer` is this API's word for system; chat templates know only the older word, and may drop what they do not."""


def chat_messages(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat messages that these items mean.

    Raises:
        BadInput: an item is of a kind that a text model with function tools cannot have, or lacks a field.
    """
    turns = _Turns()
    for number, item in enumerate(items):
        turns.add(item, f"input[{number}]")
    return [turn if turn["role"] != "assistant" else assistant_message(**_spoken(turn)) for turn in turns.messages]


def _spoken(turn: dict[str, Any]) -> dict[str, Any]:
    return {name: turn[name] for name in ("content", "reasoning", "tool_calls") if name in turn}


class _Turns:
    """Messages so far; the last one is open as long as it is the assistant's."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def add(self, item: dict[str, Any], where: str) -> None:
        kind = item.get("type") or "message"
        if kind == "message":
            self._message(item, where)
        elif kind == "reasoning":
            self._reasoning(item, where)
        elif kind == "function_call":
            self._function_call(item, where)
        elif kind == "function_call_output":
            content = chat_content(_needed(item, "output", where), f"{where}.output")
            call_id = _text(item, "call_id", where)
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        else:
            raise BadInput(
                f"{where} is of type {kind!r}; served are message, reasoning, function_call and function_call_output, "
                "as the policy has function tools only, and items are sent whole, not by reference"
            )

    def _message(self, item: dict[str, Any], where: str) -> None:
        role, content = item.get("role"), _needed(item, "content", where)
        if role == "assistant":
            turn = self._open_turn(unless=("content",))
            turn["content"] = text_of(content, f"{where}.content")
        elif isinstance(role, str) and role in _ROLES:
            self.messages.append({"role": _ROLES[role], "content": chat_content(content, f"{where}.content")})
        else:
            raise BadInput(f"{where}.role must be user, assistant, system or developer, got {role!r}")

    def _reasoning(self, item: dict[str, Any], where: str) -> None:
        thoughts: Any = item.get("content") or item.get("summary") or []
        if item.get("encrypted_content") and not thoughts:
            raise BadInput(
                f"{where} is reasoning that another provider encrypted, which the policy cannot read; begin the "
                "conversation with this policy, or leave the item out"
            )
        if not is_objects(thoughts):
            raise BadInput(f"{where} must hold its reasoning as parts with text, got {str(thoughts)[:120]}")
        if thoughts:
            turn = self._open_turn(unless=("reasoning", "content", "tool_calls"))
            turn["reasoning"] = "".join(_text(part, "text", where) for part in thoughts)

    def _function_call(self, item: dict[str, Any], where: str) -> None:
        call_id, name, arguments = (_text(item, field, where) for field in ("call_id", "name", "arguments"))
        call = tool_call(call_id, name, arguments)
        self._open_turn(unless=()).setdefault("tool_calls", []).append(call)

    def _open_turn(self, *, unless: Sequence[str]) -> dict[str, Any]:
        """The assistant's open message, or a new one if there is none, or if it has one of these already."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or any(last.get(name) for name in unless):
            last = {"role": "assistant", "content": ""}
            self.messages.append(last)
        return last


def _needed(item: dict[str, Any], name: str, where: str) -> Any:
    if item.get(name) is None:
        raise BadInput(f"{where} of type {item.get('type') or 'message'} has no {name}")
    return item[name]


def _text(item: dict[str, Any], name: str, where: str) -> str:
    value = _needed(item, name, where)
    if not isinstance(value, str):
        raise BadInput(f"{where}.{name} must be a text, got {type(value).__name__}: {str(value)[:80]}")
    return value
