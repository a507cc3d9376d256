"""An Anthropic Messages request as the chat request that it means: a pure function.

Unlike the API itself it refuses tools that the provider runs or defines, and thinking budgets: the policy thinks as its
chat template lets it. Fields that are not the API's own go along as they are.
"""

from collections.abc import Mapping
from typing import Any

from leyden.errors import BadInput
from leyden.gateway.anthropic.messages import chat_messages
from leyden.gateway.json_text import is_object, is_objects
from leyden.gateway.parts import chat_content

__all__ = ["CONTENT", "chat_body"]

CONTENT = ("messages", "tools")
"""Fields that the record keeps as chat messages and tools."""

_REFUSED = {
    "container": "there is no code execution here",
    "context_management": "the gateway shortens no conversation, as training needs what was really sent",
    "mcp_servers": "the policy has function tools only, so give the agent functions in their place",
    "n": "an answer has one choice; ask again for another",
}
_KEPT = ("max_tokens", "model", "stream", "temperature", "top_k", "top_p")
"""The same in both APIs, or, top_k, in policy servers."""

_UNSENT = (
    *("cache_control", "diagnostics", "inference_geo", "metadata"),
    *("service_tier", "speed", "user_profile_id", "workspace_id"),
)
"""What concerns the provider's service and not what is sampled."""

_TRANSLATED = ("messages", "output_config", "stop_sequences", "system", "thinking", "tool_choice", "tools")

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_body(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the chat request.

    Raises:
        BadInput: it asks for what the policy does not have, or cannot be read.
    """
    for name, reason in _REFUSED.items():
        if asked.get(name):
            raise BadInput(f"{name} is not served: {reason}")
    thinking = _object(asked, "thinking")
    if thinking and thinking.get("type") != "disabled":
        raise BadInput("thinking is not served: the policy thinks as its chat template lets it; leave thinking out")
    if not isinstance(asked.get("max_tokens"), int):
        raise BadInput(f"max_tokens must be a whole number, got {asked.get('max_tokens')!r}")
    known = {*_REFUSED, *_KEPT, *_UNSENT, *_TRANSLATED}
    body = {name: value for name, value in asked.items() if name not in known}
    body |= {name: asked[name] for name in _KEPT if asked.get(name) is not None}
    given = asked.get("messages")
    if not is_objects(given):
        raise BadInput(f"messages must be a list of objects, got {type(given).__name__}: {str(given)[:80]}")
    body["messages"] = [*_system(asked), *chat_messages(given)]
    if asked.get("stop_sequences"):
        body["stop"] = asked["stop_sequences"]
    body |= _tool_fields(asked) | _output_fields(asked)
    if body.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return body


def _system(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = chat_content(asked.get("system"), "system")
    return [{"role": "system", "content": content}] if content else []


def _tool_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    tools: Any = asked.get("tools") or []
    if not is_objects(tools):
        raise BadInput(f"tools must be a list of objects, got {str(tools)[:80]}")
    if tools:
        fields["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    choice = _object(asked, "tool_choice")
    if not choice:
        return fields
    kind = choice.get("type")
    if kind == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in _TOOL_CHOICES:
        fields["tool_choice"] = _TOOL_CHOICES[kind]
    else:
        raise BadInput(f"tool_choice.type must be tool, {', '.join(_TOOL_CHOICES)}; got {kind!r}")
    if choice.get("disable_parallel_tool_use") is not None:
        fields["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    return fields


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise BadInput(
            f"{where} is of type {tool['type']!r}, a tool that its provider runs or defines; the policy has "
            "function tools only, so give the agent a function in its place"
        )
    if not isinstance(tool.get("name"), str):
        raise BadInput(f"{where} has no name")
    named = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
    function = {chat: tool[own] for own, chat in named.items() if tool.get(own) is not None}
    return {"type": "function", "function": function}


def _output_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    config = _object(asked, "output_config")
    form = _object(config, "format")
    fields: dict[str, Any] = {"reasoning_effort": config["effort"]} if config.get("effort") is not None else {}
    if form:
        if form.get("type") != "json_schema":
            raise BadInput(f"output_config.format.type must be json_schema, got {form.get('type')!r}")
        schema = {"name": "output", "schema": form.get("schema"), "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _object(owner: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = owner.get(name)
    if value is not None and not is_object(value):
        raise BadInput(f"{name} must be an object, got {type(value).__name__}: {str(value)[:80]}")
    return value or {}
