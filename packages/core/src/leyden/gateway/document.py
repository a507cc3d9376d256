"""The doors in the OpenAPI document: model calls go round FastAPI, so it knows nothing of them.

Unlike the providers' own documents it has only what the gateway itself reads; the other fields are theirs, unchanged.
"""

from collections.abc import Mapping
from typing import Any

from leyden.gateway.anthropic.door import MESSAGES
from leyden.gateway.asked import CHAT, COMPLETIONS
from leyden.gateway.responses.door import RESPONSES

__all__ = ["PATHS"]

_TEXT = {"type": "string"}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_COMMON = {"model": _TEXT, "stream": {"type": "boolean", "default": False}}
_CHAT = {"messages": _OBJECTS, "tools": _OBJECTS}
_REFUSALS = {
    "400": "what was asked for cannot be read, or is not served",
    "401": "no key",
    "403": "the key is wrong, or its rollout is another",
    "404": "what the request names is not there",
    "410": "the rollout's attempt has ended",
    "503": "no policy answers",
}


def _door(summary: str, fields: Mapping[str, Any], required: list[str], error: Mapping[str, Any]) -> dict[str, Any]:
    """The path's item of one door."""
    body = {"type": "object", "required": required, "properties": {**_COMMON, **fields}, "additionalProperties": True}
    refusal = {"content": {"application/json": {"schema": error}}}
    answer = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": _TEXT}}
    responses = {"200": {"description": "the answer; a stream of events if stream is true", "content": answer}}
    responses |= {status: {"description": why, **refusal} for status, why in _REFUSALS.items()}
    content = {"application/json": {"schema": body}}
    operation = {"tags": ["gateway"], "summary": summary, "requestBody": {"required": True, "content": content}}
    return {"post": {**operation, "responses": responses}}


def _error(required: list[str]) -> dict[str, Any]:
    told = {"type": "object", "required": ["type", "message"], "properties": {"type": _TEXT, "message": _TEXT}}
    return {"type": "object", "required": required, "properties": {"type": _TEXT, "error": told}}


_OPENAI, _ANTHROPIC = _error(["error"]), _error(["type", "error"])

PATHS: Mapping[str, dict[str, Any]] = {
    CHAT: _door("OpenAI's chat completions", _CHAT, ["messages"], _OPENAI),
    COMPLETIONS: _door("OpenAI's completions", {"prompt": {"anyOf": [_TEXT, _TOKENS]}}, ["prompt"], _OPENAI),
    RESPONSES: _door(
        "OpenAI's Responses", {"input": {"anyOf": [_TEXT, _OBJECTS]}, "tools": _OBJECTS}, ["input"], _OPENAI
    ),
    MESSAGES: _door(
        "Anthropic's Messages",
        {**_CHAT, "max_tokens": {"type": "integer", "minimum": 1}},
        ["messages", "max_tokens"],
        _ANTHROPIC,
    ),
}
"""Path items by path, one for each door."""
