"""One HTTP/1.1 connection to a policy server: a request is sent whole, its answer read whole or as it comes.

Unlike aiohttp's or httpx's client it knows no redirects, cookies, proxies, encodings or retries, which a gateway does
not want and each model call would pay for; httptools parses, asyncio connects.
"""

import asyncio
from typing import cast

import httptools

__all__ = ["Broken", "Connection"]

_KEPT_S = 2.0  # idle: shorter than the 5 s after which uvicorn, and so vLLM, closes; never send on a closing one
_MOST_AHEAD = 1 << 20  # bytes of a stream that may come before they are read
_LENGTHS = {b"content-length", b"transfer-encoding"}


class Broken(Exception):
    """The connection ended, or what came is not HTTP."""


class Connection(asyncio.Protocol):
    """Made by `loop.create_connection`. While it is idle it stands in `idle`, where the next request finds it."""

    def __init__(self, idle: dict["Connection", None]) -> None:
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._closing: asyncio.TimerHandle | None = None
        self._woken: asyncio.Future[None] | None = None
        self._broken: Broken | None = None
        self._again = self._paused = self._asked = False
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        """Of the answer; 0 until its head is there."""
        self.headers: dict[bytes, bytes] = {}
        """Of the answer, names in lower case."""
        self._pieces: list[bytes] = []
        self._ahead = 0
        self._done = self._streams = False

    async def ask(self, request: bytes) -> None:
        """Send a request; returns when the head of its answer is there.

        Raises:
            Broken: the connection was lost before.
        """
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._begin()
        self._asked = True
        self._transport.write(request)
        while not self.status:
            await self._more()

    async def read(self) -> bytes:
        """The rest of the answer.

        Raises:
            Broken: the connection was lost before its end.
        """
        while not self._done:
            await self._more()
        return self._taken()

    async def piece(self) -> bytes:
        """What has come of the answer since the last piece; empty at its end. The server waits while much is unread.

        Raises:
            Broken: the connection was lost before its end.
        """
        self._streams = True
        while not (self._pieces or self._done):
            await self._more()
        return self._taken()

    def leave(self) -> None:
        """Keep the connection for the next request, or close it if the answer was not read or the server closes it."""
        self._asked = False
        if self._done and self._again and self._broken is None and not self._transport.is_closing():
            self._idle[self] = None
            self._closing = self._loop.call_later(_KEPT_S, self.close)
        else:
            self.close()

    def close(self) -> None:
        """End it at once."""
        self._idle.pop(self, None)
        self._transport.abort()

    async def _more(self) -> None:
        if self._broken is not None:
            raise self._broken
        self._woken = self._loop.create_future()
        await self._woken

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _taken(self) -> bytes:
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._ahead = [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return taken

    def _break(self, why: str) -> None:
        if self._broken is None:
            self._broken = Broken(why)
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._idle.pop(self, None)
        ends_here = exc is None and self._broken is None and self.status and not _LENGTHS & self.headers.keys()
        self._done = self._done or bool(ends_here)
        self._break(f"the connection was closed before the answer was complete: {exc or 'by the server'}")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            if not self._asked:
                raise Broken("nobody had asked for it")
            self._parser.feed_data(data)
        except (Broken, httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"what the server sent is no answer in HTTP: {error!r}")
            self._transport.abort()
            return
        if self._streams and self._ahead > _MOST_AHEAD:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_begin(self) -> None:
        """See `httptools.HttpResponseParser`."""
        if self._done:
            raise Broken("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools.HttpResponseParser`."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """See `httptools.HttpResponseParser`."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = {}  # "100 Continue", before the answer itself
        else:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpResponseParser`."""
        self._pieces.append(body)
        self._ahead += len(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpResponseParser`."""
        self._done = bool(self.status)
        self._again = self._parser.should_keep_alive()
