"""Requests to the policy server, over one pool of connections.

It does not retry: the agent's client does, under the same call id, and each try is an attempt on record.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from leyden.errors import BadInput
from leyden.gateway.fault import Fault, fault, mark_overflow
from leyden.gateway.json_text import dump, is_object, load_object
from leyden.types import Endpoint

__all__ = ["Upstream"]

_PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")

# A model may think for as long as it wants (the agent's client has the time limit), and any number of agents may wait.
_TIMEOUT = httpx.Timeout(None, connect=10.0)
# Shorter than the 5 s after which uvicorn, and so vLLM, closes an idle connection: never send on a closing one.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=512, keepalive_expiry=2.0)


class Upstream:
    """The gateway's HTTP client."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, limits=_LIMITS, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def post(
        self, endpoint: Endpoint, path: str, body: dict[str, Any], request_id: str
    ) -> AsyncGenerator[httpx.Response]:
        """An answer of the policy server, with status 200, still to be read.

        Raises:
            Fault: the server refused (with its own body), or died before or while the block reads.
        """
        headers = {"content-type": "application/json", "accept-encoding": "identity", "x-request-id": request_id}
        if endpoint.key is not None:
            headers["authorization"] = f"Bearer {endpoint.key}"
        url = endpoint.url.rstrip("/") + path.removeprefix("/v1")
        try:
            async with self._client.stream("POST", url, content=dump(body), headers=headers) as response:
                if response.status_code != 200:
                    raise _refusal(response, await response.aread())
                yield response
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise fault(
                502,
                f"endpoint {endpoint.id} at {endpoint.url} did not answer request {request_id}: "
                f"{type(error).__name__}: {error}; see whether its policy server runs, then try again",
                kind="server_error",
                code="policy_unreachable",
            ) from error


def _refusal(response: httpx.Response, raw: bytes) -> Fault:
    """The policy server's own error, byte for byte unless its code for a context overflow has to be set."""
    passed = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
    passed["content-type"] = response.headers.get("content-type", "application/json")
    try:
        body = load_object(raw)
    except BadInput:
        return Fault(response.status_code, {"message": raw.decode(errors="replace")[:2000]}, body=raw, headers=passed)
    nested = body.get("error")
    error: dict[str, Any] = nested if is_object(nested) else body
    if response.status_code == 400 and mark_overflow(error):
        raw = dump(body)
    return Fault(response.status_code, error, body=raw, headers=passed)
