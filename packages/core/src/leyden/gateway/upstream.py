"""Requests to the policy server, over one pool of connections.

It does not retry: the agent's client does, under the same call id, and each try is an attempt on record.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp

from leyden.errors import BadInput
from leyden.gateway.fault import Fault, fault, mark_overflow
from leyden.gateway.json_text import dump, is_object, load_object
from leyden.types import Endpoint

__all__ = ["Answering", "Upstream"]

_PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")

# A model may think for as long as it wants (the agent's client has the time limit), and any number of agents may wait.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
# Shorter than the 5 s after which uvicorn, and so vLLM, closes an idle connection: never send on a closing one.
_KEPT_S = 2.0
_BUFFER_BYTES = 1 << 20  # an answer with its tokens comes without the reader being stopped and started


class Answering:
    """An answer with status 200 whose body is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """The whole body."""
        return await self._response.read()

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        return self._response.content.iter_any()


class Upstream:
    """The gateway's HTTP client."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None  # it wants a running loop, so the first request makes it

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=_TIMEOUT,
                read_bufsize=_BUFFER_BYTES,
                skip_auto_headers=("user-agent", "accept"),
            )
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def post(
        self, endpoint: Endpoint, path: str, body: dict[str, Any], *, request_id: str, rollout: str | None
    ) -> AsyncGenerator[Answering]:
        """An answer of the policy server, with status 200, still to be read.

        `rollout` tells it whose earlier answers these messages may continue.

        Raises:
            Fault: the server refused (with its own body), or died before or while the block reads.
        """
        headers = {"content-type": "application/json", "accept-encoding": "identity", "x-request-id": request_id}
        if rollout is not None:
            headers["x-leyden-rollout"] = quote(rollout)
        if endpoint.key is not None:
            headers["authorization"] = f"Bearer {endpoint.key}"
        url = endpoint.url.rstrip("/") + path.removeprefix("/v1")
        try:
            async with self._client().post(url, data=dump(body), headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise _refusal(response, await response.read())
                yield Answering(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise fault(
                502,
                f"endpoint {endpoint.id} at {endpoint.url} did not answer request {request_id}: "
                f"{type(error).__name__}: {error}; see whether its policy server runs, then try again",
                kind="server_error",
                code="policy_unreachable",
            ) from error


def _refusal(response: aiohttp.ClientResponse, raw: bytes) -> Fault:
    """The policy server's own error, byte for byte unless its code for a context overflow has to be set."""
    passed = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
    passed["content-type"] = response.headers.get("content-type", "application/json")
    try:
        body = load_object(raw)
    except BadInput:
        return Fault(response.status, {"message": raw.decode(errors="replace")[:2000]}, body=raw, headers=passed)
    nested = body.get("error")
    error: dict[str, Any] = nested if is_object(nested) else body
    if response.status == 400 and mark_overflow(error):
        raw = dump(body)
    return Fault(response.status, error, body=raw, headers=passed)
