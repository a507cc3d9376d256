"""The content of a message, in any API's words, as the chat content that it means.

The policies are text models: images, audio and files are refused by name, as leaving them out would change the task.
"""

from typing import Any

from leyden.errors import BadInput
from leyden.gateway.json_text import is_object, is_objects

__all__ = ["chat_content", "refuse_media", "text_of"]

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that hold text, and the field that it is in."""

_MEDIA = ("image", "audio", "video", "file", "document", "screenshot")


def refuse_media(part: dict[str, Any], where: str) -> None:
    """`BadInput` if a content part is an image, audio, or another file."""
    kind = str(part.get("type"))
    medium = next((medium for medium in _MEDIA if medium in kind), None)
    if medium is not None:
        raise BadInput(
            f"{where} has a part of type {kind!r}, and the policy is a text model that reads no {medium}; "
            "put what matters into text, or let a model outside of training (policy.passthrough) look at it"
        )


def chat_content(content: Any, where: str) -> str | list[dict[str, Any]]:
    """A text as it is, one text part as its text, several as chat's text parts: how those are joined is the policy's.

    Raises:
        BadInput: it holds more than text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not is_objects(content):
        raise BadInput(f"{where} must be a text or a list of parts, got {type(content).__name__}: {str(content)[:80]}")
    texts = [_text(part, f"{where}[{number}]") for number, part in enumerate(content)]
    if len(texts) < 2:
        return "".join(texts)
    return [{"type": "text", "text": text} for text in texts]


def text_of(content: Any, where: str) -> str:
    """All of the content as one text, as a model says it; `BadInput` if it holds more than text."""
    joined = chat_content(content, where)
    return joined if isinstance(joined, str) else "".join(part["text"] for part in joined)


def _text(part: dict[str, Any], where: str) -> str:
    refuse_media(part, where)
    kind = part.get("type")
    text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
    if not isinstance(text, str):
        told = {name: value for name, value in part.items() if is_object(value) or name in ("type", *_TEXTS.values())}
        raise BadInput(f"{where} must be a part with text, of type {', '.join(_TEXTS)}; got {str(told)[:120]}")
    return text
