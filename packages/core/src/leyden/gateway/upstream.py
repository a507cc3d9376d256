"""Requests to the policy server, over one pool of connections.

It does not retry: the agent's client does, under the same call id, and each try is an attempt on record.
"""

import asyncio
from contextlib import ExitStack
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from leyden.errors import BadInput
from leyden.gateway.connection import Broken, Connection
from leyden.gateway.fault import Fault, fault, mark_overflow
from leyden.gateway.json_text import dump, is_object, load_object
from leyden.trust import trusted
from leyden.types import Endpoint

__all__ = ["Answering", "Upstream"]

_PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
_CONNECT_S = 10.0  # and no limit after it: a model may think for as long as it wants, its agent's client has the limit


class _Place(NamedTuple):
    """Where connections go."""

    host: str
    port: int
    secure: bool


@lru_cache(maxsize=256)
def _place(url: str) -> _Place:
    """Where the endpoint at this base URL listens; it is of http or https, as was checked when it was published."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return _Place(parts.hostname or "", parts.port or (443 if secure else 80), secure)


@lru_cache(maxsize=256)
def _head(url: str, key: str | None, path: str) -> bytes:
    """What all requests to one endpoint begin with.

    Raises:
        ValueError: the URL or the key would write other headers.
    """
    parts = urlsplit(url)
    lines = [
        f"POST {quote(parts.path.rstrip('/'), safe='/%:@')}{path.removeprefix('/v1')} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        "accept-encoding: identity",
    ]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    if any(not line.isprintable() for line in lines):
        raise ValueError("its URL or its key has characters that no header can hold")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


class Answering:
    """An answer with status 200 whose body is still to be read, within `with`."""

    def __init__(self, connection: Connection, endpoint: Endpoint, request_id: str) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._request_id = request_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.leave()

    async def begin(self, request: bytes) -> None:
        """Send the request, and wait for its status.

        Raises:
            Fault: the server refused it, or died.
        """
        try:
            await self._connection.ask(request)
            if self._connection.status != 200:
                raise _refusal(self._connection, await self._connection.read())
        except Broken as error:
            raise _unanswered(self._endpoint, self._request_id, error) from error

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            Fault: the policy server died meanwhile.
        """
        try:
            return await self._connection.read()
        except Broken as error:
            raise _unanswered(self._endpoint, self._request_id, error) from error

    async def piece(self) -> bytes:
        """What has come since the last piece; empty at the end.

        Raises:
            Fault: the policy server died meanwhile.
        """
        try:
            return await self._connection.piece()
        except Broken as error:
            raise _unanswered(self._endpoint, self._request_id, error) from error


class Upstream:
    """The gateway's HTTP client."""

    def __init__(self) -> None:
        self._idle: dict[_Place, dict[Connection, None]] = {}

    def close(self) -> None:
        """Close all connections that are idle; each other one closes with its answer."""
        for idle in self._idle.values():
            for connection in list(idle):
                connection.close()

    async def post(
        self, endpoint: Endpoint, path: str, body: dict[str, Any], *, request_id: str, rollout: str | None
    ) -> Answering:
        """An answer of the policy server, with status 200, still to be read.

        `rollout` tells it whose earlier answers these messages may continue.

        Raises:
            Fault: the server refused (with its own body), or cannot be reached.
        """
        data = dump(body)
        try:
            head = _head(endpoint.url, endpoint.key, path)
            own = f"x-request-id: {request_id}\r\n" + (f"x-leyden-rollout: {quote(rollout)}\r\n" if rollout else "")
            connection = await self._connection(_place(endpoint.url))
        except (OSError, ValueError) as error:
            raise _unanswered(endpoint, request_id, error) from error
        with ExitStack() as unless_answered:
            answering = unless_answered.enter_context(Answering(connection, endpoint, request_id))
            await answering.begin(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, own.encode(), len(data), data))
            unless_answered.pop_all()
        return answering

    async def _connection(self, place: _Place) -> Connection:
        idle = self._idle.setdefault(place, {})
        if idle:
            return idle.popitem()[0]
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(idle), place.host, place.port, ssl=trusted() if place.secure else None
            )
        return connection


def _unanswered(endpoint: Endpoint, request_id: str, error: Exception) -> Fault:
    return fault(
        502,
        f"endpoint {endpoint.id} at {endpoint.url} did not answer request {request_id}: "
        f"{type(error).__name__}: {error}; see whether its policy server runs, then try again",
        kind="server_error",
        code="policy_unreachable",
    )


def _refusal(connection: Connection, raw: bytes) -> Fault:
    """The policy server's own error, byte for byte unless its code for a context overflow has to be set."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in connection.headers.items()}
    passed = {name: headers[name] for name in _PASSED_HEADERS if name in headers}
    passed["content-type"] = headers.get("content-type", "application/json")
    try:
        body = load_object(raw)
    except BadInput:
        return Fault(connection.status, {"message": raw.decode(errors="replace")[:2000]}, body=raw, headers=passed)
    nested = body.get("error")
    error: dict[str, Any] = nested if is_object(nested) else body
    if connection.status == 400 and mark_overflow(error):
        raw = dump(body)
    return Fault(connection.status, error, body=raw, headers=passed)
