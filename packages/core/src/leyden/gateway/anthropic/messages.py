"""Anthropic's messages as chat messages: blocks of text, tool_use and tool_result.

A tool_use's input is JSON again, and chat templates render it from its value; a text in its place (what the policy
wrote was no JSON object) goes back as it was.
"""

import json
from collections.abc import Sequence
from typing import Any

from leyden.errors import BadInput
from leyden.gateway.assistant import assistant_message, tool_call
from leyden.gateway.json_text import is_objects
from leyden.gateway.parts import chat_content, text_of

__all__ = ["chat_messages"]


def chat_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat messages that these mean.

    Raises:
        BadInput: there is something else than text and function tools in them.
    """
    chat: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, blocks = message.get("role"), _blocks(message.get("content"), where)
        if role == "assistant":
            chat.append(_assistant(blocks, where))
        elif role == "user":
            chat += _user(blocks, where)
        elif role == "system":
            chat.append({"role": "system", "content": chat_content(blocks, where)})
        else:
            raise BadInput(f"{where}.role must be user, assistant or system, got {role!r}")
    if chat and chat[-1]["role"] == "assistant":
        raise BadInput(
            "the last message is the assistant's: beginning an answer for the policy is not served, as what it did not "
            "sample cannot be learnt; end with a user's message"
        )
    return chat


def _blocks(content: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not is_objects(content):
        raise BadInput(f"{where}.content must be a text or a list of blocks, got {str(content)[:80]}")
    return content


def _assistant(blocks: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        place, kind = f"{where}.content[{number}]", str(block.get("type"))
        if "thinking" in kind:
            raise BadInput(
                f"{place} is a {kind} block, signed by the provider that made it, which the policy cannot read; "
                "begin the conversation with this policy, or leave the block out"
            )
        if kind == "tool_use":
            calls.append(tool_call(_name(block, "id", place), _name(block, "name", place), _arguments(block, place)))
        else:
            texts.append(text_of([block], place))
    return assistant_message("".join(texts), None, calls)


def _user(blocks: Sequence[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Tool results become messages of their own; the text between them becomes the user's."""
    chat: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        place = f"{where}.content[{number}]"
        if block.get("type") != "tool_result":
            texts.append(block)
            continue
        if texts:
            chat.append({"role": "user", "content": chat_content(texts, where)})
            texts = []
        result = chat_content(block.get("content"), f"{place}.content")
        chat.append({"role": "tool", "tool_call_id": _name(block, "tool_use_id", place), "content": result})
    if texts or not chat:
        chat.append({"role": "user", "content": chat_content(texts, where)})
    return chat


def _name(block: dict[str, Any], field: str, where: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        raise BadInput(f"{where} of type {block.get('type')} needs {field} as a text, got {value!r}")
    return value


def _arguments(block: dict[str, Any], where: str) -> str:
    if block.get("input") is None:
        raise BadInput(f"{where} of type tool_use has no input")
    given = block["input"]
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
