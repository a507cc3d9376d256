"""Deterministic tokens for the fake server: one per word, plus role and end marks.

Unlike a real tokenizer it renders each message by itself, so that a conversation's next prompt starts with the previous
prompt followed by the sampled answer, whatever token ids the answer was scripted with.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["END", "FakeTokenizer", "logprob_of", "pieces_of", "word_token"]

END = 2
_ROLES = {"system": 10, "developer": 11, "user": 12, "assistant": 13, "tool": 14, "function": 15}
_FIRST_WORD = 1000
_WORDS = 100_000


def pieces_of(text: str) -> list[str]:
    """Words with the white space before them; joined, they are the text again."""
    return re.findall(r"\s*\S+|\s+$", text)


def word_token(piece: str) -> int:
    """The token id of one piece of text."""
    return _FIRST_WORD + zlib.crc32(piece.encode()) % _WORDS


def logprob_of(token_id: int) -> float:
    """A made-up log-probability, exact in float32: between -2 and -1/32."""
    return -(1 + token_id % 64) / 32


def tool_call_text(call: Mapping[str, Any]) -> str:
    """A tool call as text, the same however a client wrote its JSON arguments."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except json.JSONDecodeError:
        arguments = function["arguments"]
    return f" <tool> {function['name']} {json.dumps(arguments, sort_keys=True)}"


def _content_text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text", json.dumps(part)) for part in content)


def _message_text(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    return _content_text(message.get("content")) + "".join(tool_call_text(call) for call in calls)


class FakeTokenizer:
    """Renders requests to prompt tokens; remembers answers that were scripted with token ids of their own."""

    def __init__(self) -> None:
        self._answers: dict[tuple[tuple[int, ...], str], tuple[int, ...]] = {}

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> tuple[int, ...]:
        """The prompt of a chat request, up to and including the mark that opens the answer."""
        ids: list[int] = []
        if tools:
            ids += [*map(word_token, pieces_of(json.dumps(tools, sort_keys=True))), END]
        for message in messages:
            ids.append(_ROLES.get(message["role"], 16))
            text = _message_text(message)
            ids += self._answers.get((tuple(ids), text)) or (*map(word_token, pieces_of(text)), END)
        return (*ids, _ROLES["assistant"])

    def text_prompt(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """The prompt of a completion request: token ids as they are, text by words."""
        return tuple(map(word_token, pieces_of(prompt))) if isinstance(prompt, str) else tuple(prompt)

    def remember(self, prompt: tuple[int, ...], message: Mapping[str, Any], token_ids: tuple[int, ...]) -> None:
        """Render `message` as these tokens when it comes back after this prompt."""
        self._answers[prompt, _message_text(message)] = token_ids
