"""Scripted replies as the JSON bodies and stream chunks of vLLM's OpenAI-compatible server.

Token ids and log-probabilities are in it only when the request asks for them, as there.
"""

import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.testing.fake_tokens import END, FakeTokenizer, logprob_of, pieces_of, tool_call_text, word_token

__all__ = ["Received", "Reply", "answer_body", "stream_chunks"]


@dataclass(frozen=True)
class Reply:
    """One scripted answer, or one fault. Tokens and log-probabilities are made up unless given."""

    text: str = ""
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """(function name, arguments) each."""
    reasoning: str = ""
    """What a reasoning parser would take out of the text before it."""
    finish_reason: str | None = None
    """None: "tool_calls" if there are some, else "stop"."""
    stop_reason: str | None = None
    """The stop text that ended it."""
    token_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    named_ids: Sequence[int] | None = None
    """The tokens that the log-probabilities name as theirs; None: those of `token_ids`."""
    tokens: bool = True
    """False: leave out token ids and log-probabilities even when asked for them."""
    status: int = 200
    """Anything else: an HTTP error with `error` as its body's error object."""
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "scripted fault", "type": "server_error"})
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: threading.Event | float = 0.0
    """Wait so many seconds, or for this event, ..."""
    delay_after: int = 0
    """... after so many chunks of a stream (0: before the answer)."""
    cut_after: int | None = None
    """Drop the connection after so many chunks of a stream; without a stream, in the middle of the body."""
    piece_bytes: int | None = None
    """Send a stream in writes of so many bytes, across the borders of lines and of characters."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More top-level fields of the answer, such as model_version; without a stream they win over its own."""


@dataclass(frozen=True)
class Received:
    """One request as it arrived. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class _Choice:
    index: int
    text: str
    reasoning: str
    tool_calls: list[dict[str, Any]]
    finish_reason: str
    stop_reason: str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    named_ids: tuple[int, ...]
    tokens: bool

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or (None if self.tool_calls else "")}
        message |= {"reasoning": self.reasoning} if self.reasoning else {}
        return {**message, "tool_calls": self.tool_calls} if self.tool_calls else message


@dataclass(frozen=True)
class _Wanted:
    """Which of vLLM's extra fields the request asks for."""

    chat: bool
    ids: bool
    logprobs: bool

    def fields(self, choice: _Choice, span: slice) -> dict[str, Any]:
        """token_ids and logprobs of a part of the answer's tokens."""
        if not choice.tokens:
            return {}
        ids, logprobs, named = choice.token_ids[span], choice.logprobs[span], choice.named_ids[span]
        fields: dict[str, Any] = {"token_ids": list(ids)} if self.ids else {}
        if self.logprobs and self.chat:
            fields["logprobs"] = {"content": [_token_entry(*pair) for pair in zip(named, logprobs, strict=False)]}
        elif self.logprobs:
            fields["logprobs"] = {"tokens": [f"token_id:{i}" for i in named], "token_logprobs": list(logprobs)}
        return fields


def _token_entry(token_id: int, logprob: float) -> dict[str, Any]:
    return {"token": f"token_id:{token_id}", "logprob": logprob, "bytes": None, "top_logprobs": []}


def answer_body(received: Received, replies: Sequence[Reply], tokenizer: FakeTokenizer) -> dict[str, Any]:
    """The whole answer to a request without a stream."""
    prompt, choices, wanted = _prepare(received, replies, tokenizer)
    listed: list[dict[str, Any]] = []
    for choice in choices:
        content = {"message": choice.message} if wanted.chat else {"text": choice.text}
        entry = {"index": choice.index, **content, "finish_reason": choice.finish_reason}
        entry |= {"stop_reason": choice.stop_reason}
        listed.append({**entry, "logprobs": None, **wanted.fields(choice, slice(None))})
    body = _head(received, "chat.completion" if wanted.chat else "text_completion", replies[0])
    body |= {"choices": listed, "usage": _usage(prompt, choices)}
    _add_prompt(body, prompt, wanted, choices)
    return {**body, **replies[0].extra}


def stream_chunks(received: Received, replies: Sequence[Reply], tokenizer: FakeTokenizer) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, without the closing [DONE]."""
    prompt, choices, wanted = _prepare(received, replies, tokenizer)
    head = _head(received, "chat.completion.chunk" if wanted.chat else "text_completion", replies[0])
    for choice in choices:
        for position, entry in enumerate(_stream_entries(choice, wanted)):
            chunk = {**head, "choices": [entry]}
            if position == 0 and (choice.index == 0 or not wanted.chat):
                _add_prompt(chunk, prompt, wanted, choices)
            yield chunk
    options: Mapping[str, Any] = received.body.get("stream_options") or {}
    if options.get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(prompt, choices)}


def _prepare(
    received: Received, replies: Sequence[Reply], tokenizer: FakeTokenizer
) -> tuple[tuple[int, ...], list[_Choice], _Wanted]:
    body = received.body
    chat = received.path.endswith("/chat/completions")
    if chat:
        prompt = tokenizer.chat_prompt(body["messages"], body.get("tools") or ())
    else:
        prompt = tokenizer.text_prompt(body["prompt"])
    choices = [_choice(index, reply, prompt) for index, reply in enumerate(replies)]
    for choice in choices if chat else ():
        tokenizer.remember(prompt, choice.message, choice.token_ids)
    asks_logprobs = bool(body.get("logprobs")) if chat else body.get("logprobs") is not None
    return prompt, choices, _Wanted(chat, bool(body.get("return_token_ids")), asks_logprobs)


def _choice(index: int, reply: Reply, prompt: tuple[int, ...]) -> _Choice:
    # Tool call ids are never the same for two prompts, as with real servers, and always for one, so that runs compare.
    asked = zlib.crc32(repr(prompt).encode())
    calls = [
        {
            "id": f"call_{asked:08x}_{index}_{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for number, (name, arguments) in enumerate(reply.tool_calls)
    ]
    finish_reason = reply.finish_reason or ("tool_calls" if calls else "stop")
    words = pieces_of(reply.reasoning) + pieces_of(reply.text + "".join(map(tool_call_text, calls)))
    made_up = (*map(word_token, words), *((END,) if finish_reason != "length" else ()))
    token_ids = tuple(reply.token_ids) if reply.token_ids is not None else made_up
    logprobs = tuple(reply.logprobs) if reply.logprobs is not None else tuple(map(logprob_of, token_ids))
    named_ids = tuple(reply.named_ids) if reply.named_ids is not None else token_ids
    return _Choice(
        index=index,
        text=reply.text,
        reasoning=reply.reasoning,
        tool_calls=calls,
        finish_reason=finish_reason,
        stop_reason=reply.stop_reason,
        token_ids=token_ids,
        logprobs=logprobs,
        named_ids=named_ids,
        tokens=reply.tokens,
    )


def _stream_entries(choice: _Choice, wanted: _Wanted) -> Iterator[dict[str, Any]]:
    if wanted.chat:
        yield {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    parts: list[dict[str, Any]] = [{"reasoning": piece} for piece in pieces_of(choice.reasoning)]
    parts += [{"content": piece} for piece in pieces_of(choice.text)]
    for number, call in enumerate(choice.tool_calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opening = {**call, "index": number, "function": {"name": name, "arguments": ""}}
        parts.append({"tool_calls": [opening]})
        parts.extend(
            {"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in pieces_of(arguments)
        )
    for number, part in enumerate(parts):
        content = {"delta": part} if wanted.chat else {"text": part["content"]}
        fields = wanted.fields(choice, slice(number, number + 1))
        yield {"index": choice.index, **content, "finish_reason": None, **fields}
    content: dict[str, Any] = {"delta": {}} if wanted.chat else {"text": ""}
    rest = wanted.fields(choice, slice(len(parts), None))
    ending = {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
    yield {"index": choice.index, **content, **ending, **rest}


def _head(received: Received, kind: str, reply: Reply) -> dict[str, Any]:
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    request_id = received.headers.get("x-request-id", "fake")
    head = {"id": f"{prefix}-{request_id}", "object": kind, "created": int(time.time())}
    return {**head, "model": received.body["model"], **reply.extra}


def _usage(prompt: tuple[int, ...], choices: list[_Choice]) -> dict[str, Any]:
    sampled = sum(len(choice.token_ids) for choice in choices)
    return {"prompt_tokens": len(prompt), "completion_tokens": sampled, "total_tokens": len(prompt) + sampled}


def _add_prompt(chunk: dict[str, Any], prompt: tuple[int, ...], wanted: _Wanted, choices: list[_Choice]) -> None:
    """vLLM gives a chat's prompt tokens at the top, a completion's in each choice."""
    if not wanted.ids or not choices[0].tokens:
        return
    if wanted.chat:
        chunk["prompt_token_ids"] = list(prompt)
        return
    for entry in chunk["choices"]:
        entry["prompt_token_ids"] = list(prompt)
