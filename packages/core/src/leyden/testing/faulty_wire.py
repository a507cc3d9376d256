"""A bad network in front of servers, for fault tests: requests are delayed, refused, cut, sent twice, never answered.

Unlike a proxy of packets it knows where a request ends, so that it can lose exactly the answer to what was done.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

__all__ = ["FaultyWire"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection: [^\r]*", re.IGNORECASE)
_LONGEST_DELAY_S = 0.03

_FAULTS = {
    "delayed": 8.0,
    "refused": 2.0,
    "request cut": 2.0,
    "answer lost": 3.0,
    "answer cut": 2.0,
    "sent twice": 3.0,
    "never answered": 0.5,
}
"""How many in a hundred requests have which fault."""


class FaultyWire:
    """`async with FaultyWire(ports, rng).listening() as url`: each request goes to one of the ports of 127.0.0.1.

    `counts` has how often what happened; `silence=False` leaves out requests that are never answered, at which clients
    wait for as long as their own limit says.
    """

    def __init__(self, ports: Sequence[int], rng: random.Random, *, silence: bool = True) -> None:
        self.counts: Counter[str] = Counter()
        self._ports = ports
        self._rng = rng
        self._faults = {name: share for name, share in _FAULTS.items() if silence or name != "never answered"}

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        """Listen while the block runs; gives the base URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request = await _request(reader)
            fault = self._fault()
            self.counts[fault] += 1
            if fault == "never answered":
                await reader.read()
            elif fault != "refused":
                await self._pass(request, fault, writer)
        writer.transport.abort()

    def _fault(self) -> str:
        names, shares = list(self._faults), list(self._faults.values())
        return self._rng.choices([*names, "passed"], [*shares, 100 - sum(shares)])[0]

    async def _pass(self, request: bytes, fault: str, writer: asyncio.StreamWriter) -> None:
        if fault == "delayed":
            await asyncio.sleep(self._rng.uniform(0, _LONGEST_DELAY_S))
        if fault in ("answer lost", "sent twice"):
            await self._answer(request)
        if fault == "request cut":
            await self._answer(request[: self._rng.randrange(1, len(request))], whole=False)
        elif fault == "answer cut":
            answer = await self._answer(request)
            writer.write(answer[: self._rng.randrange(len(answer) or 1)])
            await writer.drain()
        elif fault != "answer lost":
            await self._stream(request, writer)

    async def _stream(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        """Send a request on, and its answer back as it comes."""
        reader, upstream = await asyncio.open_connection("127.0.0.1", self._rng.choice(self._ports))
        try:
            upstream.write(request)
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        finally:
            upstream.transport.abort()

    async def _answer(self, request: bytes, *, whole: bool = True) -> bytes:
        """Send a request on, or the beginning of one, and read the answer to its end."""
        reader, upstream = await asyncio.open_connection("127.0.0.1", self._rng.choice(self._ports))
        try:
            upstream.write(request)
            if not whole:
                await upstream.drain()
                upstream.write_eof()
            return await reader.read()
        finally:
            upstream.transport.abort()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """One request, which asks for the connection to be closed after its answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return _CONNECTION.sub(b"", head)[:-2] + b"Connection: close\r\n\r\n" + body
