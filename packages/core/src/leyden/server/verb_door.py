"""The API's verbs as an ASGI app of their own: FastAPI's search for a route and its layers cost more than most verbs.

The functions, keys and types are those of the routes that FastAPI declares (`leyden.server.api`). What is unusual (no
JSON, a body that does not fit) is left to FastAPI, which then says what is wrong with it.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_type_hints

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leyden.errors import LeydenError
from leyden.gateway.json_text import DEEPEST, check_depth

__all__ = ["Check", "VerbDoor"]

Check = Callable[[Request], Awaitable[None]]
"""Raises a `LeydenError` if the request's key does not open the verb."""

_JSON = b"application/json"
_NO_JSON = (b"NaN", b"Infinity")  # pydantic's parser would read them


class _Verb:
    def __init__(self, route: APIRoute, check: Check) -> None:
        self.check = check
        self.run = route.endpoint
        hints = get_type_hints(route.endpoint)
        answer = hints.pop("return")
        self.asks = next((name for name, kind in hints.items() if kind is Request), None)
        ((self.body, kind),) = ((name, kind) for name, kind in hints.items() if kind is not Request)
        self._read = TypeAdapter[Any](kind)
        self.write = TypeAdapter[Any](answer).dump_json

    def read(self, raw: bytes) -> Any:
        """The body.

        Raises:
            ValueError: it is no JSON, does not fit, or is nested too deeply.
        """
        if raw.count(b"[") + raw.count(b"{") <= DEEPEST and not any(word in raw for word in _NO_JSON):
            return self._read.validate_json(raw)
        value = from_json(raw, allow_inf_nan=False)
        check_depth(value)
        return self._read.validate_python(value)


class VerbDoor:
    """POST requests with a fixed path, to the routes of `routers`, under `prefix`; all others go on to `others`."""

    def __init__(
        self,
        routers: Iterable[tuple[APIRouter, Check]],
        others: ASGIApp,
        refusal: Callable[[LeydenError], Response],
        *,
        prefix: str,
    ) -> None:
        self._others = others
        self._refusal = refusal
        self._verbs = {
            f"{prefix}{route.path}": _Verb(route, check)
            for router, check in routers
            for route in router.routes
            if isinstance(route, APIRoute) and route.methods == {"POST"} and "{" not in route.path
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        verb = self._verbs.get(scope["path"]) if scope["method"] == "POST" else None
        if verb is None or (b"content-type", _JSON) not in scope["headers"]:
            await self._others(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            raw = await request.body()
            await verb.check(request)
            try:
                values = {verb.body: verb.read(raw)}
            except ValueError:
                await self._others(scope, _again(raw, receive), send)
                return
            if verb.asks is not None:
                values[verb.asks] = request
            answer = Response(verb.write(await verb.run(**values)), media_type="application/json")
        except ClientDisconnect:
            return
        except LeydenError as error:
            answer = self._refusal(error)
        await answer(scope, receive, send)


def _again(raw: bytes, receive: Receive) -> Receive:
    """`receive` for who has not seen the body yet."""
    left = [raw]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay
