"""A scripted OpenAI-compatible model server with vLLM's token fields, on a real socket of 127.0.0.1.

It samples nothing: answers, tokens and log-probabilities are made up deterministically, and faults (HTTP errors,
delays, connections that drop after n chunks) happen where the script says. It keeps every request that it received;
the Responses API it serves, and keeps, in the gateway's own translation to chat completions.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from leyden.gateway.asked import CHAT, COMPLETIONS
from leyden.gateway.door import Reply as Wording
from leyden.gateway.fault import Fault
from leyden.gateway.responses.door import RESPONSES
from leyden.gateway.responses.reply import ResponsesReply
from leyden.gateway.responses.request import chat_body
from leyden.gateway.sse import DONE, event
from leyden.testing.fake_answer import Received, Reply, answer_body, stream_chunks
from leyden.testing.fake_tokens import FakeTokenizer
from leyden.testing.serving import serve
from leyden.types import new_id

__all__ = ["FakeServer", "Received", "Reply"]

_PATIENCE_S = 30.0


Answer = Reply | Sequence[Reply]
"""One reply for every choice asked for, or one reply per choice (the first one's faults and delays count)."""
Script = Callable[[dict[str, Any], Mapping[str, str]], Answer]


class FakeServer:
    """`with FakeServer([Reply("hello")]) as server:` serves at `server.url`, which ends in /v1.

    Args:
        replies: answers in order, one per request (when used up: HTTP 400), or a function of (body, headers).
        models: what /v1/models lists.
    """

    def __init__(self, replies: Sequence[Answer] | Script = (), *, models: Sequence[str] = ("fake",)) -> None:
        self.requests: list[Received] = []
        self.disconnects = 0
        """How many clients left before their answer was complete."""
        self.tokenizer = FakeTokenizer()
        self._script = replies if callable(replies) else _in_order(replies)
        self._models = models
        self._changed = threading.Condition()
        self._stopping = False
        self._stack = ExitStack()
        self._base_url = ""

    def __enter__(self) -> Self:
        self._base_url = self._stack.enter_context(serve(self._app))
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._stack.close()

    @property
    def url(self) -> str:
        """The base URL for clients, with /v1."""
        return f"{self._base_url}/v1"

    def wait_requests(self, count: int) -> None:
        """Block until so many requests have arrived; TimeoutError after 30 s."""
        self._wait(lambda: len(self.requests) >= count, f"{count} requests")

    def wait_disconnects(self, count: int) -> None:
        """Block until so many clients have left early; TimeoutError after 30 s."""
        self._wait(lambda: self.disconnects >= count, f"{count} disconnects")

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(reached, timeout=_PATIENCE_S):
                raise TimeoutError(
                    f"the fake server saw {len(self.requests)} requests and {self.disconnects} disconnects"
                    f" in {_PATIENCE_S:.0f} s, not {what}"
                )

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        exchange = _Exchange(self._is_stopping, receive, send)
        body = await exchange.read()
        path = scope["path"]
        if path == "/v1/models":
            listed = [{"id": model, "object": "model", "owned_by": "fake"} for model in self._models]
            await exchange.send_json(200, {"object": "list", "data": listed})
            return
        if path not in (CHAT, COMPLETIONS, RESPONSES):
            await exchange.send_json(404, {"error": {"message": f"no route {path}", "type": "not_found"}})
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = json.loads(body)
        if path == RESPONSES:
            reply: Wording = ResponsesReply(asked, new_id())
            await self._answer(exchange, Received(CHAT, headers, chat_body(asked, ())), reply)
        else:
            await self._answer(exchange, Received(path, headers, asked), _AsItIs())

    def _is_stopping(self) -> bool:
        return self._stopping

    async def _answer(self, exchange: "_Exchange", received: Received, wording: Wording) -> None:
        with self._changed:
            self.requests.append(received)
            self._changed.notify_all()
            scripted = self._script(received.body, received.headers)
        replies = [scripted] * (received.body.get("n") or 1) if isinstance(scripted, Reply) else list(scripted)
        watch = asyncio.create_task(exchange.watch())
        try:
            await self._play(exchange, received, replies, wording)
        except _Gone:
            with self._changed:
                self.disconnects += 1
                self._changed.notify_all()
        finally:
            watch.cancel()

    async def _play(
        self, exchange: "_Exchange", received: Received, replies: Sequence[Reply], wording: Wording
    ) -> None:
        first = replies[0]
        if first.status != 200 or not received.body.get("stream"):
            await exchange.pause(first.delay)
            if first.status != 200:
                content = _json({"error": dict(first.error)})
            else:
                content = wording.whole(answer_body(received, replies, self.tokenizer))
            await exchange.send(first.status, content, first.headers, cut=first.cut_after is not None)
            return
        await exchange.start_stream(first.headers)
        said = [wording.chunk(chunk) for chunk in stream_chunks(received, replies, self.tokenizer)]
        for number, events in enumerate([wording.opening() + said[0], *said[1:], wording.closing()]):
            if number == first.delay_after:
                await exchange.pause(first.delay)
            if number == first.cut_after:
                return  # without an end of the body: the server drops the connection
            if events:
                await exchange.write(events, first.piece_bytes)
        await exchange.end()


class _AsItIs:
    """The wording of chat completions and completions."""

    verbatim = False

    def whole(self, body: dict[str, Any]) -> bytes:
        return _json(body)

    def opening(self) -> bytes:
        return b""

    def chunk(self, body: dict[str, Any]) -> bytes:
        return event(_json(body))

    def closing(self) -> bytes:
        return event(DONE)

    def failure(self, error: Fault) -> bytes:
        return event(error.body)


def _json(body: Mapping[str, Any]) -> bytes:
    """Also what is no JSON (NaN), where the script says so."""
    return json.dumps(body, ensure_ascii=False).encode()


def _in_order(replies: Sequence[Answer]) -> Script:
    left = iter(replies)
    used_up = Reply(status=400, error={"message": "the fake server's script is used up", "type": "script_used_up"})
    return lambda _body, _headers: next(left, used_up)


class _Gone(Exception):
    """The client left before its answer was complete."""


class _Exchange:
    """One HTTP exchange over ASGI."""

    def __init__(self, stopping: Callable[[], bool], receive: Any, send: Any) -> None:
        self._stopping = stopping
        self._receive = receive
        self._send = send
        self._gone = False

    async def read(self) -> bytes:
        body = b""
        while True:
            message = await self._receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                return body

    async def watch(self) -> None:
        """Note when the client leaves."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True

    async def pause(self, delay: threading.Event | float) -> None:
        until = time.monotonic() + (delay if not isinstance(delay, threading.Event) else float("inf"))
        while time.monotonic() < until and not (isinstance(delay, threading.Event) and delay.is_set()):
            if self._gone or self._stopping():
                raise _Gone
            await asyncio.sleep(0.01)

    async def send_json(self, status: int, body: Mapping[str, Any]) -> None:
        await self.send(status, _json(body), {})

    async def send(self, status: int, content: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
        all_headers = {"content-type": "application/json", "content-length": str(len(content)), **headers}
        await self._start(status, all_headers)
        await self._send(
            {"type": "http.response.body", "body": content[: len(content) // 2] if cut else content, "more_body": cut}
        )

    async def start_stream(self, headers: Mapping[str, str]) -> None:
        await self._start(200, {"content-type": "text/event-stream", **headers})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, piece_bytes: int | None = None) -> None:
        if self._gone:
            raise _Gone
        size = piece_bytes or len(data)
        for start in range(0, len(data), size):
            await self._send({"type": "http.response.body", "body": data[start : start + size], "more_body": True})
            await asyncio.sleep(0)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
