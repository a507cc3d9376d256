"""The cheapest policy server that says what vLLM says: answers made beforehand, over raw asyncio.

2,000 prompt token ids and 200 sampled tokens with log probabilities; the first prompt token is another in each answer,
so that no store can tell two prompts apart by their prefix. What was not asked for is not sent.

argv: how many prompt tokens and sampled tokens instead, or nothing.
"""

import asyncio
import itertools
import json
import sys

PROMPT_TOKENS, SAMPLED_TOKENS = map(int, sys.argv[1:] or (2000, 200))
_FIRST = 100000  # the first prompt token, always six digits, so that all answers are equally long
_NUMBERS = itertools.cycle(range(_FIRST, 900000))


def _choice(span: slice, *, tokens: bool) -> dict:
    ids = [(7919 * place) % 150000 for place in range(SAMPLED_TOKENS)][span]
    logprobs = [-(place * 37 % 1000) / 1024 for place in range(SAMPLED_TOKENS)][span]
    entries = [
        {"token": f"token_id:{token}", "logprob": value, "bytes": None, "top_logprobs": []}
        for token, value in zip(ids, logprobs, strict=True)
    ]
    told = {"token_ids": ids, "logprobs": {"content": entries}} if tokens else {"logprobs": None}
    return {"index": 0, **told}


def _head(kind: str) -> dict:
    return {"id": "chatcmpl-stub", "object": kind, "created": 1750000000, "model": "stub"}


def _prompt() -> list[int]:
    return [_FIRST, *((place * 104729) % 150000 for place in range(1, PROMPT_TOKENS))]


_USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": SAMPLED_TOKENS}
_USAGE["total_tokens"] = PROMPT_TOKENS + SAMPLED_TOKENS


def _word(place: int) -> str:
    return f"word{place} "  # never the same one twice in a row, which LiteLLM takes for a broken model


def whole(*, tokens: bool) -> bytes:
    """The body of an answer without a stream."""
    message = {"role": "assistant", "content": "".join(map(_word, range(SAMPLED_TOKENS)))}
    choice = {**_choice(slice(None), tokens=tokens), "message": message, "finish_reason": "stop"}
    told = {"prompt_token_ids": _prompt()} if tokens else {}
    return json.dumps({**_head("chat.completion"), "choices": [choice], "usage": _USAGE, **told}).encode()


def events(*, tokens: bool) -> list[bytes]:
    """The events of a stream, one token each."""
    chunks = []
    for place in range(SAMPLED_TOKENS):
        delta = {"content": _word(place)} | ({"role": "assistant"} if place == 0 else {})
        last = place == SAMPLED_TOKENS - 1
        choice = _choice(slice(place, place + 1), tokens=tokens)
        chunks.append({"choices": [{**choice, "delta": delta, "finish_reason": "stop" if last else None}]})
    if tokens:
        chunks[0]["prompt_token_ids"] = _prompt()
    chunks.append({"choices": [], "usage": _USAGE})
    lines = [json.dumps({**_head("chat.completion.chunk"), **chunk}) for chunk in chunks]
    return [f"data: {line}\n\n".encode() for line in [*lines, "[DONE]"]]


class _Answers:
    def __init__(self, *, tokens: bool) -> None:
        body, self._placed = whole(tokens=tokens), tokens
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._whole = head.encode() + body
        self.events = events(tokens=tokens)

    def body(self) -> bytes:
        return self._numbered(self._whole)

    def first_event(self) -> bytes:
        return self._numbered(self.events[0])

    def _numbered(self, data: bytes) -> bytes:
        return data.replace(b"%d" % _FIRST, b"%d" % next(_NUMBERS), 1) if self._placed else data


_ANSWERS = {asked: _Answers(tokens=asked) for asked in (False, True)}
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Policy(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found or len(rest) < _content_length(head):
            return
        self._received = b""
        self._answer(head, rest)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        compact = body.replace(b": ", b":")
        answers = _ANSWERS[b'"logprobs":true' in compact and b'"return_token_ids":true' in compact]
        if b'"stream":true' not in compact:
            self._transport.write(answers.body())
            return
        self._transport.write(_STREAM_HEAD + _chunk(answers.first_event()))
        rest = b"".join(map(_chunk, answers.events[1:])) + b"0\r\n\r\n"
        asyncio.get_running_loop().call_soon(self._transport.write, rest)


def _content_length(head: bytes) -> int:
    _, found, after = head.lower().partition(b"content-length:")
    return int(after.split(b"\r\n", 1)[0]) if found else 0


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Policy, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(_serve()))
