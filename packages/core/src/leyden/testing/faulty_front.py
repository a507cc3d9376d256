"""A door in front of a Leyden server through which the gateway is reached, but no adapter's record: for fault tests.

Unlike a mock of the recorder, the writes cross a real socket and fail, or hang, as they do when a server is in trouble.
"""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx

from leyden.testing.serving import serve

__all__ = ["FaultyFront"]

_PATIENCE_S = 60.0
_KEPT = (b"content-type", b"content-length", b"x-leyden-call")


class FaultyFront:
    """`with FaultyFront(server_url).serve() as front_url:`; `held` keeps the records waiting before they fail."""

    def __init__(self, server_url: str, *, held: bool = False) -> None:
        self._server_url = server_url
        self._release = threading.Event()
        self._arrived = threading.Event()
        if not held:
            self._release.set()

    @contextmanager
    def serve(self) -> Generator[str]:
        """Listen while the block runs; at its end what is held fails."""
        with serve(self._app) as url:
            try:
                yield url
            finally:
                self.release()

    def release(self) -> None:
        """Let the records that are held fail, and all later ones at once."""
        self._release.set()

    def wait_record(self) -> None:
        """Block until a record has arrived; TimeoutError after 60 s."""
        if not self._arrived.wait(_PATIENCE_S):
            raise TimeoutError(f"no record arrived in {_PATIENCE_S:.0f} s")

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"].startswith("/api/"):
            await self._refuse(send)
        else:
            await self._pass(scope, body, send)

    async def _refuse(self, send: Any) -> None:
        self._arrived.set()
        await asyncio.to_thread(self._release.wait)
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def _pass(self, scope: dict[str, Any], body: bytes, send: Any) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
        url = f"{self._server_url}{scope['path']}"
        async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
            response = await client.request(scope["method"], url, headers=headers, content=body)
        told = [(name.lower(), value) for name, value in response.headers.raw if name.lower() in _KEPT]
        await send({"type": "http.response.start", "status": response.status_code, "headers": told})
        await send({"type": "http.response.body", "body": response.content})
