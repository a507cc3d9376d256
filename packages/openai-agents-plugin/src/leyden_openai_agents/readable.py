"""What a span says of a model request and its answer, as chat messages. There is all of it only if the user's settings
let the SDK put it there (`trace_include_sensitive_data`).
"""

from typing import Any

from agents.models.chatcmpl_converter import Converter
from pydantic_core import to_jsonable_python

from leyden.types import Choice, Request

__all__ = ["choices_of", "readable", "request_of"]

_SETTINGS = ("model", "temperature", "top_p", "max_output_tokens")


def readable(value: Any) -> Any:
    """`value` as JSON can hold it."""
    return to_jsonable_python(value, serialize_unknown=True, inf_nan_mode="strings")


def request_of(data: Any) -> Request:
    """What was asked for."""
    if data.type == "generation":
        asked: dict[str, Any] = {"model": data.model, **(data.model_config or {})}
        settings = {name: readable(value) for name, value in asked.items() if value is not None}
        return Request(messages=tuple(readable(data.input or ())), asked=settings)
    told: dict[str, Any] = {}
    if data.response is not None:
        told = data.response.model_dump(mode="json", exclude_none=True)
    system: list[dict[str, Any]] = (
        [{"role": "system", "content": told["instructions"]}] if told.get("instructions") else []
    )
    return Request(
        path="/v1/responses",
        messages=(*system, *_messages(data.input or ())),
        tools=tuple(told.get("tools", ())),
        asked={name: told[name] for name in _SETTINGS if name in told},
    )


def choices_of(data: Any) -> tuple[Choice, ...]:
    """What was answered; () if the span does not have it."""
    if data.type == "response":
        return () if data.response is None else _choice(data.response.output)
    answers = readable(data.output or ())
    return tuple(choice for answer in answers for choice in _choices_of_answer(answer))


def _choices_of_answer(answer: dict[str, Any]) -> tuple[Choice, ...]:
    """The SDK notes a message; of a stream it notes the response that it has made of the chunks."""
    return _choice(answer["output"]) if answer.get("object") == "response" else (Choice(message=answer),)


def _choice(items: Any) -> tuple[Choice, ...]:
    first, *more = _messages(readable(items)) or [{"role": "assistant", "content": None}]
    texts = [message["content"] for message in (first, *more) if message.get("content")]
    calls = [call for message in (first, *more) for call in message.get("tool_calls", ())]
    message = {**first, "content": "".join(texts) or None, **({"tool_calls": calls} if calls else {})}
    return (Choice(message=message),)


def _messages(items: Any) -> list[dict[str, Any]]:
    return readable(Converter.items_to_messages(items))
