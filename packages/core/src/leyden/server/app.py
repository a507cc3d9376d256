"""One ASGI app: the store's HTTP API and the gateway, with every error as JSON that says what to do."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from leyden import __version__, errors
from leyden.dashboard.app import dashboard
from leyden.gateway.document import PATHS
from leyden.gateway.gateway import Gateway
from leyden.gateway.measures import Measures
from leyden.gateway.routes import ModelDoor, gateway_router
from leyden.keys import Keys
from leyden.server.api import Api
from leyden.server.auth import NoKey, access_of
from leyden.server.limits import Limits, Rates, limited_body
from leyden.server.options import DEFAULTS, ServerOptions
from leyden.server.verb_door import VerbDoor
from leyden.server.watched import watched_router
from leyden.store import SqlStore

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
    """FastAPI behind the limits, but for what is asked often, which goes straight to its door."""

    model_door: ModelDoor
    verb_door: VerbDoor
    limits: Limits

    def openapi(self) -> dict[str, Any]:
        """See `FastAPI.openapi`: the doors too."""
        document = super().openapi()
        document["paths"] |= PATHS
        return document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        to_model = scope["method"] == "POST" and scope["path"] in ModelDoor.paths
        scope["app"] = self
        try:
            receive = limited_body(scope, receive, self.limits)
        except errors.OverLimit as error:
            refusal = self.model_door.refusal(scope["path"], error) if to_model else _answer_error(error)
            await refusal(scope, receive, send)
            return
        await (self.model_door if to_model else self.verb_door)(scope, receive, send)


def create_app(store: SqlStore, keys: Keys, options: ServerOptions = DEFAULTS) -> FastAPI:
    """The app. It closes the gateway's connections at its end; the store stays its owner's.

    Who runs it sets `app.state.stopping` when it is to end, so that nobody is kept waiting.
    """
    measures = Measures()
    gateway = Gateway(store, measures, unattributed=options.unattributed, call_limit_s=options.limits.call_s)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await gateway.close()

    app = _App(title="Leyden", version=__version__, lifespan=lifespan)
    app.model_door = ModelDoor(gateway, access_of)
    app.limits = options.limits
    app.state.keys = keys
    app.state.rates = Rates(options.limits.requests_per_s)
    app.state.stopping = asyncio.Event()
    app.add_exception_handler(errors.LeydenError, _told)
    app.add_exception_handler(RequestValidationError, _told_invalid)
    app.add_exception_handler(HTTPException, _told_by_framework)

    api = Api(store, keys, measures, reward_from=options.reward_from)
    app.verb_door = api.door(super(_App, app).__call__, _answer_error)
    app.include_router(api.router())
    app.include_router(watched_router(store, measures, __version__))
    app.include_router(gateway_router(gateway, access_of))
    app.mount("/dashboard", dashboard(store, keys, measures.recent, app.state.stopping))
    return app


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.LeydenError)
    return _answer_error(error)


async def _told_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return _answer(400, "BadInput", "; ".join(problems))


async def _told_by_framework(request: Request, error: Exception) -> Response:
    """A path or a method that is not there."""
    assert isinstance(error, HTTPException)
    kind = "NotFound" if error.status_code == 404 else "BadInput"
    message = f"{request.method} {request.url.path}: {error.detail}; /openapi.json lists what there is"
    return _answer(error.status_code, kind, message, dict(error.headers or {}))


def _answer_error(error: errors.LeydenError) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    if isinstance(error, errors.OverLimit):
        status = error.status
    return _answer(status, type(error).__name__, str(error))


def _answer(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"type": kind, "message": message}}, status, headers)
