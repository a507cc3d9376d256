"""A server of version 0.0.9, which answers /health and knows none of our paths: what a newer client must refuse."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from leyden.testing.serving import serve

__all__ = ["elder_server"]


@contextmanager
def elder_server() -> Generator[str]:
    """Serve it while the block runs; gives its base URL."""
    with serve(_app) as url:
        yield url


async def _app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    known = scope["path"] == "/health"
    await send({"type": "http.response.start", "status": 200 if known else 404, "headers": []})
    body = {"status": "ok", "version": "0.0.9"} if known else {}
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
