"""Conversations that go on: an answer sampled here stays the tokens that it was, and only what is new is rendered.

A chat template renders an earlier answer again: without its thoughts, with its tool calls spelt otherwise, with other
tokens for the same text. Where the agent's messages are the same, the next prompt is the last one, the sampled tokens,
and the template's rendering of what follows. Where the agent rewrote its history, all is rendered anew.
"""

import hashlib
import json
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyden.errors import BadInput
from leyden_trainer.local.rendering import Renderer, text_of

__all__ = ["Conversations", "Turn"]

REMEMBERED = 4096
_MARK = "leyden0marks0this0turn"
"""Stands for an earlier answer while the template renders what follows it. No filter changes letters and digits."""

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Turn:
    """One request of a conversation: its prompt, and where its answers are to be remembered."""

    prompt_ids: tuple[int, ...]
    _conversations: "Conversations"
    _asked: "hashlib.blake2b | None"
    """The hash of all that was asked; None where nobody said which conversation this is."""

    def remember(self, message: Mapping[str, Any], token_ids: Sequence[int]) -> None:
        """This answer was sampled as these tokens. Of two answers with the same message the later one is kept."""
        if self._asked is not None:
            self._asked_and(message, array("I", (*self.prompt_ids, *token_ids)))

    def _asked_and(self, message: Mapping[str, Any], token_ids: "array[int]") -> None:
        assert self._asked is not None
        answered = self._asked.copy()
        answered.update(_canonical(message))
        self._conversations.keep(answered.digest(), token_ids)


class Conversations:
    """The latest answers of one policy server, by what was asked before them. Losing one costs a row, never exactness.

    Args:
        renderer: of the model's own chat template.
        stop_ids: the tokens that end a turn, of which the template writes one after each answer.
    """

    def __init__(self, renderer: Renderer, stop_ids: frozenset[int]) -> None:
        self._renderer = renderer
        self._stop_ids = stop_ids
        self._answers: OrderedDict[bytes, array[int]] = OrderedDict()

    def keep(self, key: bytes, token_ids: "array[int]") -> None:
        """Remember the tokens of a conversation up to and with an answer."""
        self._answers[key] = token_ids
        self._answers.move_to_end(key)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    def end_of_turn(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> int | None:
        """The token by which the template ends an answer to these messages; None if sampling does not stop at it."""
        _before, *after = self._renderer.text([*messages, _marked({})], tools, options).split(_MARK)
        rest = self._renderer.tokens(after[0]) if len(after) == 1 else ()
        return next((token for token in rest if token in self._stop_ids), None)

    def turn(
        self, session: str | None, messages: Messages, tools: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Turn:
        """The prompt of a request. `session` is its rollout: only its own earlier answers are continued; None: none.

        Raises:
            BadInput: as `Renderer.prompt_ids`.
        """
        if session is None:
            return Turn(self._renderer.prompt_ids(messages, tools, options), self, None)
        asked = hashlib.blake2b(json.dumps([session, tools, options], sort_keys=True).encode(), digest_size=16)
        known: tuple[int, array[int]] | None = None
        for place, message in enumerate(messages):
            asked.update(_canonical(message))
            if message.get("role") == "assistant":
                answer = self._answers.get(asked.digest())
                known = known if answer is None else (place, answer)
        prompt_ids = None if known is None else self._continued(*known, messages, tools, options)
        if prompt_ids is None:
            prompt_ids = self._renderer.prompt_ids(messages, tools, options)
        return Turn(prompt_ids, self, asked)

    def _continued(
        self,
        place: int,
        token_ids: "array[int]",
        messages: Messages,
        tools: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
    ) -> tuple[int, ...] | None:
        """The tokens up to the answer at `place`, and the rendering of what follows; None if that is not clear."""
        marked = [*messages[:place], _marked(messages[place]), *messages[place + 1 :]]
        _before, *after = self._renderer.text(marked, tools, options).split(_MARK)
        if len(after) != 1:
            return None
        rest = self._renderer.tokens(after[0])
        ends = next((where for where, token in enumerate(rest) if token in self._stop_ids), None)
        if ends is None:
            return None
        # An answer that was cut at its length has no end of its own, and takes the template's.
        has_end = len(token_ids) > 0 and token_ids[-1] in self._stop_ids
        return (*token_ids, *rest[ends + has_end :])


def _marked(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with the mark where every template shows it: the name of a tool that is called, or else the text."""
    calls = message.get("tool_calls")
    if not calls:
        return {"role": "assistant", "content": _MARK}
    return {"role": "assistant", "content": "", "tool_calls": [_named(calls[-1])]}


def _named(call: Any) -> dict[str, Any]:
    try:
        return {**call, "function": {**call["function"], "name": _MARK}}
    except (TypeError, KeyError) as error:
        raise BadInput(f"a tool call needs function.name and function.arguments, got {str(call)[:120]}") from error


def _canonical(message: Mapping[str, Any]) -> bytes:
    """What frameworks keep of a message: they drop ids and empty fields, strip an answer, spell JSON their own way."""
    role, text = message.get("role"), text_of(message.get("content"))
    parts = [role, text.strip() if role == "assistant" else text, list(_calls(message.get("tool_calls") or ()))]
    return json.dumps(parts, sort_keys=True).encode() + b"\n"


def _calls(calls: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise BadInput(f"a tool call needs function.name and function.arguments, got {str(call)[:120]}")
        yield function.get("name"), _decoded(function.get("arguments"))


def _decoded(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except json.JSONDecodeError:
        return arguments
