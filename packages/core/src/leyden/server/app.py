"""One ASGI app: the store's HTTP API and the gateway, with every error as JSON that says what to do."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from leyden import __version__, errors
from leyden.gateway.gateway import Gateway
from leyden.gateway.routes import ModelDoor, gateway_router
from leyden.keys import Keys
from leyden.server.api import api_router
from leyden.server.auth import NoKey, access_of
from leyden.store.protocol import Store

__all__ = ["create_app"]

_STATUS: tuple[tuple[type[errors.LeydenError], int], ...] = (
    (errors.BadInput, 400),
    (NoKey, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.LeaseLost, 410),
)


class _App(FastAPI):
    """FastAPI, but for model calls, which go straight to their door."""

    model_door: ModelDoor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ModelDoor.paths:
            scope["app"] = self
            await self.model_door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(store: Store, keys: Keys, *, unattributed: Literal["refuse", "record"] = "refuse") -> FastAPI:
    """The app. It closes the gateway's connections at its end; the store stays its owner's.

    Who runs it sets `app.state.stopping` when it is to end, so that nobody is kept waiting.
    """
    gateway = Gateway(store, unattributed=unattributed)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await gateway.close()

    app = _App(title="Leyden", version=__version__, lifespan=lifespan)
    app.model_door = ModelDoor(gateway, access_of)
    app.state.keys = keys
    app.state.stopping = asyncio.Event()
    app.add_exception_handler(errors.LeydenError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """Whether the server answers; needs no key."""
        return {"status": "ok", "version": __version__}

    app.include_router(gateway_router(gateway, access_of))
    app.include_router(api_router(store, keys))
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    return _error(status, type(error).__name__, str(error))


async def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return _error(400, "BadInput", "; ".join(problems))


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"type": kind, "message": message}}, status)
