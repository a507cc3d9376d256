"""Answers from the record of another rollout, given again to the same requests; after them the policy samples.

Unlike a cache it is a proof that the agent is deterministic: a request that differs from the recorded one is refused,
and the rollout is incomplete.
"""

import itertools
from typing import Any, Self, cast

from leyden.continuity import answered
from leyden.gateway.asked import Asked
from leyden.gateway.fault import Fault, fault
from leyden.gateway.json_text import dump
from leyden.gateway.sse import DONE, event
from leyden.store.completeness import DIVERGED
from leyden.store.protocol import Store
from leyden.types import Attempt, Call, Choice, Replay

__all__ = ["Recorded", "recorded"]


class Recorded:
    """An answer that was given before, in the place of the policy server's."""

    def __init__(self, call: Call, answer: Attempt, asked: Asked) -> None:
        self.call_id = call.id
        self._body = _body(call, answer, asked)
        self._streamed = event(dump(self._body)) + event(DONE) if asked.stream else b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is no connection to leave."""

    async def read(self) -> bytes:
        """The whole body."""
        return dump(self._body)

    async def piece(self) -> bytes:
        """The body as one chunk of a stream; then empty."""
        piece, self._streamed = self._streamed, b""
        return piece


async def recorded(store: Store, replay: Replay, number: int, asked: Asked) -> Recorded | None:
    """The answer to call `number` (from 0) of a rollout that replays another; None from where the policy samples.

    The first call that the policy samples must be the recorded one too: its answers are compared.

    Raises:
        Fault: the request is not the recorded one, or there is none.
    """
    if number > replay.calls:
        return None
    calls = answered(await store.calls([replay.rollout_id]))
    if number >= len(calls):
        if number == replay.calls:
            return None
        raise _diverged(number, replay, f"at most {len(calls)} calls with an answer", f"call {number + 1}")
    call, answer = calls[number]
    expected = call.request.model_dump(mode="json", exclude={"sent"}) if call.request else {}
    got = asked.record({}).model_dump(mode="json", exclude={"sent"})
    for field in got:
        if got[field] != expected.get(field):
            raise _diverged(number, replay, *_first_difference(field, expected.get(field), got[field]))
    return Recorded(call, answer, asked) if number < replay.calls else None


def _diverged(number: int, replay: Replay, expected: str, got: str) -> Fault:
    return fault(
        400,
        f"{DIVERGED} at call {number + 1} (the first {replay.calls} are answered as in rollout {replay.rollout_id}): "
        f"expected {expected}, got {got}; an agent that is replayed must ask the same when it is answered the same",
        code="replay_diverged",
    )


def _first_difference(field: str, expected: Any, got: Any) -> tuple[str, str]:
    ones, others = _listed(expected), _listed(got)
    if ones is not None and others is not None:
        pairs = itertools.zip_longest(ones, others)
        place = next(place for place, (one, other) in enumerate(pairs) if one != other)
        field, expected, got = f"{field}[{place}]", ones[place : place + 1], others[place : place + 1]
    return f"{field} = {str(expected)[:200]}", str(got)[:200]


def _listed(value: object) -> list[object] | None:
    """None if it is no list."""
    return cast("list[object]", value) if isinstance(value, list) else None


def _body(call: Call, answer: Attempt, asked: Asked) -> dict[str, Any]:
    """The answer as a policy server would give it, with its tokens."""
    kind = "chat.completion" if asked.chat else "text_completion"
    return {
        "id": f"replay-{call.id}",
        "object": f"{kind}.chunk" if asked.chat and asked.stream else kind,
        "created": int(call.started_at),
        "model": asked.model,
        "choices": [_choice(place, choice, asked) for place, choice in enumerate(answer.choices)],
        "usage": answer.usage,
        "prompt_token_ids": answer.prompt_token_ids,
        "model_version": answer.version,
    }


def _choice(place: int, choice: Choice, asked: Asked) -> dict[str, Any]:
    shared = {"index": place, "finish_reason": choice.finish_reason, "token_ids": choice.token_ids}
    names = [f"token_id:{token}" for token in choice.token_ids or ()]
    logprobs = choice.logprobs or ()
    if not asked.chat:
        own = {"tokens": names, "token_logprobs": logprobs}
        return {**shared, "text": choice.message.get("content") or "", "logprobs": own}
    content: list[dict[str, Any]] = [
        {"token": name, "logprob": logprob, "bytes": None, "top_logprobs": []}
        for name, logprob in zip(names, logprobs, strict=True)
    ]
    message: dict[str, Any] = dict(choice.message)
    if asked.stream and message.get("tool_calls"):
        message["tool_calls"] = [{"index": n, **made} for n, made in enumerate(message["tool_calls"])]
    return {**shared, ("delta" if asked.stream else "message"): message, "logprobs": {"content": content}}
