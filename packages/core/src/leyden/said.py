"""What a message or a value says, as plain text for people; never what a model is told."""

import json
from typing import Any, cast

__all__ = ["content", "shortened", "text"]


def shortened(said: str, limit: int | None) -> str:
    """At most so many characters, and how many there were."""
    return said if limit is None or len(said) <= limit else f"{said[:limit]}… ({len(said)} characters)"


def content(message: dict[str, Any]) -> str:
    """What is said, and the tools that are called."""
    calls = cast("list[dict[str, Any]]", message.get("tool_calls") or ())
    said = (text(message.get("content")), ", ".join(map(_asked, calls)))
    return " ".join(part for part in said if part)


def _asked(call: dict[str, Any]) -> str:
    function = call.get("function")
    if not isinstance(function, dict):
        return text(call)
    known = cast("dict[str, Any]", function)
    return f"{known.get('name')}({_spaced(known.get('arguments'))})"


def _spaced(arguments: Any) -> str:
    """Arguments in one form, however they were written."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (TypeError, ValueError):
        return str(arguments)


def text(value: Any) -> str:
    """A string as it is, nothing as nothing, all else as JSON."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
