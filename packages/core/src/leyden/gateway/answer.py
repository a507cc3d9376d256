"""An answer as it comes in, whole or in chunks: what was sampled is kept, what the agent did not ask for taken out.

Unlike an SDK's accumulator it keeps token ids and log-probabilities, and checks them where they enter: a wrong one is
reported and left out, never repaired.
"""

from array import array
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, cast

from leyden.errors import BadInput
from leyden.gateway.asked import Asked
from leyden.gateway.json_text import is_object, is_objects
from leyden.store.completeness import SENTINEL, are_ids, is_possible
from leyden.types import Choice

__all__ = ["Answer", "check_tokens"]

_MOST_TOOL_CALLS = 1024  # of one answer; the places before an index are filled up
_NAMED_BY_ID = "token_id:"


def check_tokens(token_ids: list[Any], logprobs: list[Any]) -> str | None:
    """What is wrong with the tokens of one choice; None if nothing is."""
    if type(token_ids) is not list or not are_ids(token_ids):
        return f"token ids that are no natural numbers: {str(token_ids)[:80]}"
    if type(logprobs) is not list or not set(map(type, logprobs)) <= {int, float}:
        return f"log-probabilities that are no numbers: {str(logprobs)[:80]}"
    if len(token_ids) != len(logprobs):
        return f"{len(token_ids)} token ids and {len(logprobs)} log-probabilities"
    if logprobs and not is_possible(logprobs):
        return f"log-probabilities from {min(logprobs)} to {max(logprobs)}, outside ({SENTINEL}, 0]"
    return None


@dataclass
class _Sampled:
    """One choice so far. `token_ids` and `logprobs` are None until some came."""

    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": None})
    finish_reason: str | None = None
    token_ids: list[Any] | None = None
    logprobs: list[Any] | None = None
    names: list[Any] | None = None
    """Of the tokens beside the log-probabilities: text, or `token_id:N`."""


class Answer:
    """What the policy has answered so far to one request."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._choices: dict[int, _Sampled] = {}
        self._versions: set[int] = set()
        self.prompt_token_ids: tuple[int, ...] | None = None
        self.usage: dict[str, Any] | None = None
        self.stripped = False
        """Whether the agent is to see something else than what was taken last."""

    @property
    def finished(self) -> bool:
        """Whether every choice that was asked for has its finish reason."""
        ended = [choice for choice in self._choices.values() if choice.finish_reason is not None]
        return len(ended) >= self._asked.num_choices

    @property
    def ending(self) -> bool:
        """Whether a choice has its finish reason: from that chunk on, a stream waits for its record."""
        return any(choice.finish_reason is not None for choice in self._choices.values())

    @property
    def versions(self) -> frozenset[int]:
        """The model versions that the policy itself named (`model_version`)."""
        return frozenset(self._versions)

    def take(self, body: dict[str, Any]) -> bool:
        """Keep what was sampled, and leave in `body` what the agent asked for (`stripped` tells whether that is less).

        Returns:
            Whether the agent is to see `body` at all: not if it has only the usage, and that was not asked for.

        Raises:
            BadInput: it does not have the shape of OpenAI's answers.
        """
        choices = _objects(body, "choices")
        prompt = body.get("prompt_token_ids")
        for entry in choices:
            prompt = prompt or entry.get("prompt_token_ids")
            self._take_choice(entry)
        if prompt is not None:
            self.prompt_token_ids = tuple(prompt)
        self.usage = _object(body, "usage") or self.usage
        if type(body.get("model_version")) is int:
            self._versions.add(body["model_version"])
        return self._strip(body, choices)

    def _take_choice(self, entry: dict[str, Any]) -> None:
        choice = self._choices.setdefault(entry.get("index", 0), _Sampled())
        choice.finish_reason = entry.get("finish_reason") or choice.finish_reason
        if "message" in entry:
            choice.message = _object(entry, "message")
        elif "delta" in entry:
            _fold(choice.message, _object(entry, "delta"))
        else:
            choice.message["content"] = (choice.message["content"] or "") + entry.get("text", "")
        choice.token_ids = _joined(choice.token_ids, entry.get("token_ids"))
        logprobs = _object(entry, "logprobs")
        if self._asked.chat:
            content = _objects(logprobs, "content") if logprobs.get("content") is not None else None
            choice.logprobs = _joined(choice.logprobs, content and [token.get("logprob") for token in content])
            choice.names = _joined(choice.names, content and [token.get("token") for token in content])
        else:
            choice.logprobs = _joined(choice.logprobs, logprobs.get("token_logprobs"))
            choice.names = _joined(choice.names, logprobs.get("tokens"))

    def _strip(self, body: dict[str, Any], choices: list[dict[str, Any]]) -> bool:
        asked = self._asked
        self.stripped = not (asked.wants_token_ids and asked.wants_logprobs)
        if asked.model is not None and body.get("model") != asked.model:
            self.stripped, body["model"] = True, asked.model
        if not asked.wants_token_ids:
            body.pop("prompt_token_ids", None)
            for entry in choices:
                entry.pop("token_ids", None)
                entry.pop("prompt_token_ids", None)
        if not asked.wants_logprobs:
            for entry in choices:
                if "logprobs" in entry:
                    entry["logprobs"] = None
        if not asked.stream or asked.wants_usage:
            return True
        usage = body.pop("usage", None)
        self.stripped = self.stripped or usage is not None
        return usage is None or bool(choices)

    def choices(self) -> tuple[tuple[Choice, ...], list[str]]:
        """The choices as the store keeps them, in order, and what was wrong with their tokens."""
        kept: list[Choice] = []
        problems: list[str] = []
        lost = self._miscounted()
        if self.prompt_token_ids is not None and not are_ids(self.prompt_token_ids):
            problems.append(f"the prompt came with token ids that are no natural numbers: {self.prompt_token_ids[:8]}")
            self.prompt_token_ids = None
        for index, sampled in sorted(self._choices.items()):
            problem = _problem(sampled) or lost
            if problem:
                problems.append(f"choice {index} came with {problem}")
            choice = Choice(message=sampled.message, finish_reason=sampled.finish_reason)
            kept.append(choice if problem else _with_tokens(choice, sampled))
        return tuple(kept), problems

    def _miscounted(self) -> str | None:
        """A parser in the policy server can swallow tokens; only the usage tells."""
        if self.usage is None or not self.finished:
            return None
        sampled = sum(len(choice.token_ids or ()) for choice in self._choices.values())
        counts = {"completion_tokens": sampled}
        if self.prompt_token_ids is not None:
            counts["prompt_tokens"] = len(self.prompt_token_ids)
        for name, came in counts.items():
            told = self.usage.get(name)
            if told is not None and told != came:
                return f"{came} token ids (of all choices) where the usage counts {told} {name}"
        return None


def _with_tokens(choice: Choice, sampled: _Sampled) -> Choice:
    """The choice with tokens that were checked; pydantic would look at each number again."""
    token_ids, logprobs = sampled.token_ids or (), sampled.logprobs or ()
    return choice.model_copy(update={"token_ids": tuple(token_ids), "logprobs": tuple(array("d", logprobs))})


def _problem(sampled: _Sampled) -> str | None:
    if sampled.token_ids is None or sampled.logprobs is None:
        missing = [name for name in ("token_ids", "logprobs") if getattr(sampled, name) is None]
        return f"no {' and no '.join(missing)}"
    return check_tokens(sampled.token_ids, sampled.logprobs) or _misnamed(sampled.token_ids, sampled.names)


def _misnamed(token_ids: list[int], names: list[Any] | None) -> str | None:
    """vLLM's return_tokens_as_token_ids names each token by its id: they must be the same tokens."""
    if not names or not str(names[0]).startswith(_NAMED_BY_ID):
        return None
    own = [f"{_NAMED_BY_ID}{token}" for token in token_ids]
    if names == own:
        return None
    place = next(place for place, pair in enumerate(zip_longest(names, own)) if pair[0] != pair[1])
    named, kept = names[place : place + 1], own[place : place + 1]
    return f"log-probabilities of other tokens: at place {place} of {named}, not {kept}"


def _joined(before: list[Any] | None, more: list[Any] | None) -> list[Any] | None:
    if before is None or not more:
        return more if before is None else before
    before.extend(more)
    return before


def _object(owner: dict[str, Any], name: str) -> dict[str, Any]:
    """The object under `name`; {} where it is missing or null."""
    value = owner.get(name)
    if value is None:
        return {}
    if not is_object(value):
        raise BadInput(f"expected an object under {name!r}, got {str(value)[:80]}")
    return value


def _objects(owner: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects under `name`; [] where it is missing or null."""
    value: Any = owner.get(name) or []
    if not is_objects(value):
        raise BadInput(f"expected a list of objects under {name!r}, got {str(value)[:80]}")
    return value


def _fold(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a stream's delta to the message: text is appended, tool calls are put together by their index."""
    for name, value in delta.items():
        if name == "tool_calls":
            for part in _objects(delta, name):
                _fold_tool_call(message.setdefault("tool_calls", []), part)
        elif isinstance(value, str) and name != "role" and isinstance(message.get(name), str):
            message[name] += value
        elif value is not None:
            message[name] = value


def _fold_tool_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index", len(calls))
    if not 0 <= index < _MOST_TOOL_CALLS:
        raise BadInput(f"a tool call came with index {index}, expected one below {_MOST_TOOL_CALLS}")
    while len(calls) <= index:
        empty: dict[str, Any] = {"id": None, "type": "function", "function": {"name": None, "arguments": ""}}
        calls.append(empty)
    call = cast("dict[str, Any]", calls[index])
    function = _object(part, "function")
    call["id"] = part.get("id") or call["id"]
    call["function"]["name"] = function.get("name") or call["function"]["name"]
    call["function"]["arguments"] += function.get("arguments") or ""
