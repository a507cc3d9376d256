"""AutoGen's messages, tools and results in the words of chat completions, for records that no gateway makes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autogen_core import FunctionCall
from autogen_core.models import AssistantMessage, CreateResult, FunctionExecutionResultMessage, LLMMessage
from autogen_core.tools import Tool, ToolSchema
from pydantic_core import to_jsonable_python

from leyden.types import Choice, Request

__all__ = ["choice_of", "readable", "request_of"]


def readable(value: Any) -> Any:
    """The value as JSON, whatever it is."""
    return to_jsonable_python(value, serialize_unknown=True, inf_nan_mode="strings")


def request_of(messages: Sequence[LLMMessage], tools: Sequence[Tool | ToolSchema], asked: Mapping[str, Any]) -> Request:
    """What a model client was asked for."""
    schemas = [tool.schema if isinstance(tool, Tool) else tool for tool in tools]
    return Request(
        messages=tuple(entry for message in messages for entry in _entries(message)),
        tools=tuple({"type": "function", "function": readable(schema)} for schema in schemas),
        asked=readable(dict(asked)),
    )


def choice_of(result: CreateResult) -> Choice:
    """The answer as AutoGen read it: a text, or tool calls with what was said besides."""
    message = _assistant(result.content, result.thought)
    return Choice(message=message, finish_reason=result.finish_reason)


def _entries(message: LLMMessage) -> Iterator[dict[str, Any]]:
    if isinstance(message, FunctionExecutionResultMessage):
        for result in message.content:
            yield {"role": "tool", "tool_call_id": result.call_id, "content": result.content}
    elif isinstance(message, AssistantMessage):
        yield _assistant(message.content, message.thought)
    else:
        role = "system" if message.type == "SystemMessage" else "user"
        yield {"role": role, "content": readable(message.content)}


def _assistant(content: str | list[FunctionCall], thought: str | None) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content, **({"reasoning": thought} if thought else {})}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in content
    ]
    return {"role": "assistant", "content": thought, "tool_calls": calls}
