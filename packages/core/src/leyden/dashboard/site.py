"""The dashboard as an ASGI app of its own: pages that only read, rendered on the server, for those who were let in."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from leyden.dashboard.access import Doorkeeper, is_foreign, is_rebound
from leyden.dashboard.queries import pulse
from leyden.dashboard.wording import FILTERS
from leyden.errors import BadInput, LeydenError, NotFound
from leyden.gateway.meter import Meter
from leyden.store import SqlStore

__all__ = ["Page", "Site", "site_app"]

_HERE = Path(__file__).parent
_LOOK_S = 1.0
"""How often an open page's stream looks for changes."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would make the Origin of our own form null
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Page:
    """What an address shows: values for a template, and the same as JSON. Both are made only if they are wanted, in a
    thread: model calls go through the same event loop, and a long rollout takes a while to write out."""

    template: str
    """Empty: it has no page, only JSON."""
    values: Callable[[], Mapping[str, Any]]
    data: Callable[[], Any]


@dataclass
class Site:
    """What all pages share."""

    store: SqlStore
    door: Doorkeeper
    meter: Meter
    stopping: asyncio.Event
    _seen: tuple[float, str] = field(default=(float("-inf"), ""))
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def pulse(self) -> str:
        """Differs when something happened; looked up once for all who watch."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._seen[0] >= _LOOK_S / 2:
                known = await self.store.look(pulse)
                self._seen = (now, f"{known}/{self.meter.total}")
            return self._seen[1]


Handler = Callable[[Site, Request], Awaitable[Page]]


def site_app(site: Site, pages: Mapping[str, Handler]) -> Starlette:
    """The app, to be mounted at /dashboard."""
    shown = _Shown(site)
    routes = [Route(path, shown.guarded(handler), methods=["GET"]) for path, handler in pages.items()]
    routes += [
        Route("/login", shown.login, methods=["GET", "POST"]),
        Route("/events", shown.events, methods=["GET"]),
    ]
    handlers: Any = {LeydenError: shown.failure, HTTPException: shown.failure}
    static = Mount("/static", StaticFiles(directory=_HERE / "static"))
    return Starlette(routes=[*routes, static], exception_handlers=handlers)


class _Shown:
    """Handlers as responses: who may see them, how they look, what goes wrong."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pages = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._pages.filters |= FILTERS  # pyright: ignore[reportUnknownMemberType]
        files = sorted((_HERE / "static").iterdir())
        content = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        self._pages.globals |= {"version": content[:10]}  # pyright: ignore[reportUnknownMemberType]

    def _html(self, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        text = self._pages.get_template(template).render(values)
        return HTMLResponse(text, status, _HEADERS)

    def guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The page, or the way to the login."""

        async def answer(request: Request) -> Response:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            before = await self._site.pulse()  # what happens while the page is made makes it load again
            page = await handler(self._site, request)
            if request.query_params.get("as") == "json" or not page.template:
                return await asyncio.to_thread(lambda: _json(page.data()))
            json_query = str(request.url.include_query_params(**{"as": "json"}).query)
            shared = {"here": request.url.path, "json_query": json_query, "pulse": before}
            response = await asyncio.to_thread(lambda: self._html(page.template, {**shared, **page.values()}))
            if "authorization" not in request.headers:
                self._site.door.let_in(request, response)
            return response

        return answer

    def _refusal(self, request: Request) -> Response | None:
        if is_rebound(request):
            raise HTTPException(421, "this address is reached as localhost or 127.0.0.1 only")
        if self._site.door.opens(request):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/dashboard/login", HTTPStatus.SEE_OTHER, _HEADERS)
        raise HTTPException(401, "send the operator's key as Authorization: Bearer KEY, or log in at /dashboard/login")

    async def login(self, request: Request) -> Response:
        """By a link's token, or by the operator's key."""
        if is_rebound(request) or is_foreign(request):
            raise HTTPException(403, "this request was sent by another site's page")
        if request.method == "POST":
            form = parse_qs((await request.body()).decode(errors="replace"))
            entered = self._site.door.knows(form.get("key", [""])[0])
            problem = "" if entered else "That is not the operator's key."
        else:
            token = request.query_params.get("token", "")
            entered = self._site.door.follows_link(token)
            problem = "This link has ended." if token and not entered else ""
        if not entered:
            return self._html("login.html", {"problem": problem}, 403 if problem else 200)
        # A strict cookie does not travel along a redirect that began on another site, so a page of ours goes on.
        response = self._html("welcome.html", {})
        self._site.door.let_in(request, response)
        return response

    async def events(self, request: Request) -> Response:
        """Server-sent events: a line whenever something happened."""
        if is_rebound(request) or not self._site.door.opens(request):
            raise HTTPException(401, "log in at /dashboard/login")
        headers = {**_HEADERS, "X-Accel-Buffering": "no"}
        return StreamingResponse(self._beats(), headers=headers, media_type="text/event-stream")

    async def _beats(self) -> AsyncGenerator[str]:
        last, silent = "", 0
        while not self._site.stopping.is_set():
            now = await self._site.pulse()
            silent = 0 if now != last else silent + 1
            if now != last:
                yield f"data: {now}\n\n"
            elif silent % 15 == 0:
                yield ": still here\n\n"
            last = now
            try:
                await asyncio.wait_for(self._site.stopping.wait(), _LOOK_S)
            except TimeoutError:
                continue

    async def failure(self, request: Request, error: Exception) -> Response:
        """What went wrong, as a page or as JSON."""
        if isinstance(error, HTTPException):
            status, message = error.status_code, str(error.detail)
        else:
            status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, BadInput) else 503
            message = str(error)
        if "text/html" in request.headers.get("accept", ""):
            return self._html(
                "error.html", {"status": status, "message": message, "here": request.url.path, "pulse": ""}, status
            )
        body = {"error": {"type": type(error).__name__, "message": message}}
        return _json(body, status)


def _json(data: Any, status: int = 200) -> Response:
    return Response(json.dumps(data, ensure_ascii=False), status, _HEADERS, "application/json")
