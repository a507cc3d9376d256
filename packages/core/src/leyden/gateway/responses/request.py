"""A Responses request as the chat request that it means: a pure function.

Unlike the API itself it refuses hosted tools, conversations and prompts kept by the provider: the policy has none.
Fields that are not the API's own (a policy server's top_k, say) go along as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from leyden.errors import BadInput
from leyden.gateway.json_text import is_object, is_objects
from leyden.gateway.responses.items import chat_messages

__all__ = ["CONTENT", "LOGPROBS", "chat_body"]

CONTENT = ("input", "tools")
"""Fields that the record keeps as chat messages and tools."""

LOGPROBS = "message.output_text.logprobs"

_REFUSED = {
    "background": "an answer is given on the request's own connection",
    "context_management": "the gateway shortens no conversation, as training needs what was really sent",
    "conversation": "send the items, or name the answer before with previous_response_id",
    "messages": "that is chat completions' field; send input",
    "moderation": "there is no moderation model here",
    "n": "an answer has one choice; ask again for another",
    "prompt": "prompts kept by the provider are not here; send instructions and input",
}
_KEPT = ("model", "parallel_tool_calls", "stream", "temperature", "top_p")
"""The same in both APIs."""

_UNSENT = (
    *("access_programs", "background_options", "image", "include", "max_tool_calls", "metadata"),
    *("previous_response_id", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier", "service_tier", "store", "stream_options", "top_logprobs", "truncation", "user"),
)
"""What concerns the provider's service, or the form of the answer, and not what is sampled."""

_TRANSLATED = ("input", "instructions", "max_output_tokens", "reasoning", "text", "tool_choice", "tools")


def chat_body(asked: Mapping[str, Any], history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The body of the chat request.

    Args:
        asked: the Responses request.
        history: chat messages of the answer before and what led to it, without its instructions.

    Raises:
        BadInput: it asks for what the policy does not have, or cannot be read.
    """
    for name, reason in _REFUSED.items():
        if asked.get(name):
            raise BadInput(f"{name} is not served: {reason}")
    known = {*_REFUSED, *_KEPT, *_UNSENT, *_TRANSLATED}
    body = {name: value for name, value in asked.items() if name not in known}
    body |= {name: asked[name] for name in _KEPT if asked.get(name) is not None}
    body["messages"] = [*_instructions(asked), *history, *_input(asked)]
    if asked.get("tools"):
        body["tools"] = _tools(asked["tools"])
    choice = _tool_choice(asked.get("tool_choice"))
    body |= {"tool_choice": choice} if choice is not None else {}
    if asked.get("max_output_tokens") is not None:
        body["max_completion_tokens"] = asked["max_output_tokens"]
    body |= _text_fields(asked) | _reasoning_fields(asked) | _logprob_fields(asked)
    if body.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return body


def _instructions(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    instructions = asked.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise BadInput(f"instructions must be a text, got {type(instructions).__name__}: {str(instructions)[:80]}")
    return [{"role": "system", "content": instructions}] if instructions else []


def _input(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = asked.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not is_objects(given):
        raise BadInput(f"input must be a text or a list of items, got {type(given).__name__}: {str(given)[:80]}")
    return chat_messages(given)


def _tools(tools: Any) -> list[dict[str, Any]]:
    if not is_objects(tools):
        raise BadInput(f"tools must be a list of objects, got {str(tools)[:80]}")
    return [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise BadInput(
            f"{where} is of type {tool.get('type')!r}, a tool that its provider runs or defines; the policy has "
            "function tools only, so give the agent a function in its place"
        )
    if not isinstance(tool.get("name"), str):
        raise BadInput(f"{where} has no name")
    fields = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in fields if tool.get(name) is not None}}


def _tool_choice(choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        return choice
    if is_object(choice) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    raise BadInput(f"tool_choice must be auto, none, required, or one function; got {str(choice)[:120]}")


def _text_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    text = _object(asked, "text")
    form = _object(text, "format")
    fields: dict[str, Any] = {"verbosity": text["verbosity"]} if text.get("verbosity") is not None else {}
    if form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type" and value is not None}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form and form.get("type") != "text":
        fields["response_format"] = form
    return fields


def _reasoning_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    effort = _object(asked, "reasoning").get("effort")
    return {"reasoning_effort": effort} if effort is not None else {}


def _logprob_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    if LOGPROBS not in (asked.get("include") or ()):
        return {}
    top = asked.get("top_logprobs")
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}


def _object(owner: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = owner.get(name)
    if value is not None and not is_object(value):
        raise BadInput(f"{name} must be an object, got {type(value).__name__}: {str(value)[:80]}")
    return value or {}
