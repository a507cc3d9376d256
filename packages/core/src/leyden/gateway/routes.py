"""The gateway's routes: one for each door, and the models; other paths are refused by name."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from leyden.errors import LeydenError
from leyden.gateway.door import Door
from leyden.gateway.doors import DOORS
from leyden.gateway.exchange import ClientGone, Exchange
from leyden.gateway.fault import Fault, fault, fault_of
from leyden.gateway.gateway import Gateway
from leyden.keys import Access

__all__ = ["ModelDoor", "gateway_router"]

AccessOf = Callable[[Request], Access]


class ModelDoor:
    """The APIs for model calls as an ASGI app of their own: FastAPI's layers would cost each call a tenth more.

    Each API is a door (`leyden.gateway.doors`). `access_of` tells what a request's key opens, or raises `Forbidden`.
    """

    paths = frozenset(DOORS)

    def __init__(self, gateway: Gateway, access_of: AccessOf) -> None:
        self._gateway = gateway
        self._access_of = access_of

    def refusal(self, path: str, error: LeydenError) -> Response:
        """The error in the words of the API at this path."""
        return _refusal(DOORS[path].refusal(fault_of(error)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward to the policy, record, answer in the words of the API that was asked, with streaming."""
        request, door = Request(scope, receive), DOORS[scope["path"]]
        try:
            access = self._access_of(request)
            exchange = await self._gateway.open(access, door, request.headers, await request.body())
        except ClientDisconnect:
            return
        except LeydenError as error:
            await self.refusal(scope["path"], error)(scope, receive, send)
        except Fault as error:
            await _refusal(door.refusal(error))(scope, receive, send)
        else:
            await _Answering(exchange, door)(scope, receive, send)


def gateway_router(gateway: Gateway, access_of: AccessOf) -> APIRouter:
    """What else is under /v1."""
    router = APIRouter(prefix="/v1", tags=["gateway"])

    async def models(request: Request) -> Response:
        """The models that are published."""
        try:
            access_of(request)
            return JSONResponse({"object": "list", "data": await gateway.models()})
        except LeydenError as error:
            return _refusal(fault_of(error))

    async def held(request: Request) -> Response:
        """How long the requests of this key's rollout were held for weight swaps; its runner does not count it."""
        try:
            return JSONResponse({"held_s": await gateway.held_s(access_of(request))})
        except LeydenError as error:
            return _refusal(fault_of(error))

    async def other(request: Request) -> Response:
        """What others serve and this gateway does not."""
        path, served = request.url.path, ", ".join(DOORS) + " and /v1/models"
        why = "; the gateway does not count tokens, the answer's usage does" if path.endswith("/count_tokens") else ""
        error = fault(404, f"{path} is not served here{why}; {served} are", code="not_served")
        door = next((door for own, door in DOORS.items() if path.startswith(f"{own}/")), None)
        return _refusal(door.refusal(error) if door else error)

    router.add_api_route("/models", models, methods=["GET"], summary="Published models")
    router.add_api_route("/held", held, methods=["GET"], summary="Time held")
    router.add_api_route("/{path:path}", other, methods=["GET", "POST"], include_in_schema=False)
    return router


def _refusal(error: Fault) -> Response:
    return Response(error.body, error.status, error.headers)


class _Answering(Response):
    """Runs the exchange while the client listens: only here are both ASGI's receive and send at hand."""

    def __init__(self, exchange: Exchange, door: Door) -> None:
        super().__init__()
        self._exchange = exchange
        self._door = door
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes) -> None:
            if not self._begun:
                self._begun = True
                await _start(send, 200, {"content-type": "text/event-stream", **self._exchange.headers})
            await send({"type": "http.response.body", "body": data, "more_body": True})

        exchange = self._exchange
        try:
            if exchange.asked.stream:
                rest = await exchange.settled(exchange.stream(write), receive)
                await write(rest)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                body = await exchange.settled(exchange.whole(), receive)
                told = {"content-type": "application/json", "content-length": str(len(body)), **exchange.headers}
                await _start(send, 200, told)
                await send({"type": "http.response.body", "body": body, "more_body": False})
        except ClientGone:
            return
        except Fault as error:
            await self._fail(error, send, write)

    async def _fail(self, error: Fault, send: Send, write: Callable[[bytes], Awaitable[None]]) -> None:
        """As a status if nothing was sent yet, else as an event of the stream, which then ends without a finish."""
        if self._begun:
            await write(self._exchange.reply.failure(error))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        told = self._door.refusal(error)
        headers = {**told.headers, "content-length": str(len(told.body)), **self._exchange.headers}
        await _start(send, told.status, headers)
        await send({"type": "http.response.body", "body": told.body, "more_body": False})


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
