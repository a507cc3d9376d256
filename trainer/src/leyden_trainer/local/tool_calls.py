"""Tool calls in text: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form of Hermes and Qwen.

What is not a whole, valid call stays text: the agent then sees what the model wrote, and can say so.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Any

__all__ = ["OPENING", "Parsed", "length_before", "parse_tool_calls"]

OPENING = "<tool_call>"
CLOSING = "</tool_call>"


@dataclass(frozen=True)
class Parsed:
    """The text outside the calls, and the calls in OpenAI's form."""

    content: str
    tool_calls: tuple[dict[str, Any], ...]


def parse_tool_calls(text: str) -> Parsed:
    """Take the valid calls out of the text. White space around calls is nobody's."""
    outside, calls, rest = "", list[dict[str, Any]](), text
    while OPENING in rest:
        before, _, after = rest.partition(OPENING)
        inner, closing, behind = after.partition(CLOSING)
        call = _call(inner) if closing else None
        if call is None:
            outside, rest = outside + before + OPENING, after
        else:
            outside, rest = (outside + before).rstrip(), behind
            calls.append(call)
    if calls and not rest.strip():
        rest = ""
    return Parsed(outside + rest, tuple(calls))


def length_before(text: str, opening: str) -> int:
    """How much of a growing text is surely before `opening`, which may have only begun at its end."""
    if opening in text:
        return text.index(opening)
    for length in range(min(len(opening) - 1, len(text)), 0, -1):
        if text.endswith(opening[:length]):
            return len(text) - length
    return len(text)


def _call(inner: str) -> dict[str, Any] | None:
    try:
        spoken = json.loads(inner)
    except json.JSONDecodeError:
        return None
    if not isinstance(spoken, dict) or not isinstance(spoken.get("name"), str):
        return None
    arguments = spoken.get("arguments", {})
    if not isinstance(arguments, dict):
        return None
    function = {"name": spoken["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
