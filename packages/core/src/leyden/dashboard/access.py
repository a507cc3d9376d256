"""Who may look: whoever came by a signed link or typed the operator's key, and then carries a cookie.

Asked for on loopback too, unlike in most tools of this kind: the agents that are trained run on the same machine, and
a page shows what a rollout's key must not open: other rollouts, and tasks with their solutions.
"""

import time
from typing import Any
from urllib.parse import urlsplit

import jwt
from starlette.requests import Request
from starlette.responses import Response

from leyden.errors import Forbidden
from leyden.keys import Keys
from leyden.server.listening import is_loopback

__all__ = ["LOGIN_S", "Doorkeeper", "is_foreign", "is_rebound"]

LOGIN_S = 7 * 24 * 3600
"""How long a link opens, and a browser that was let in and does not come back."""


class Doorkeeper:
    """Signs links and cookies with a secret that follows from the operator's key, so they survive a restart."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._secret = keys.secret("dashboard")
        # Browsers send a host's cookies to all of its ports: each server needs a name of its own.
        self._cookie = f"leyden-{keys.secret('name of the cookie')[:4].hex()}"

    def link(self, url: str) -> str:
        """An address that lets its visitor in."""
        return f"{url}/dashboard/login?token={self._token('link')}"

    def _token(self, kind: str) -> str:
        claims = {"aud": kind, "exp": int(time.time()) + LOGIN_S}
        return jwt.encode(claims, self._secret, algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]

    def _signed(self, token: str, kind: str) -> bool:
        required: Any = {"require": ["aud", "exp"]}
        try:
            jwt.decode(token, self._secret, algorithms=["HS256"], audience=kind, options=required)  # pyright: ignore[reportUnknownMemberType]
        except jwt.InvalidTokenError:
            return False
        return True

    def opens(self, request: Request) -> bool:
        """Whether the cookie, or a key in `Authorization`, lets this request in."""
        cookie = request.cookies.get(self._cookie)
        if cookie is not None:
            return self._signed(cookie, "browser")
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.knows(key)

    def knows(self, key: str) -> bool:
        """Whether it is the operator's key."""
        try:
            return self._keys.open(key.strip()).allows("read")
        except Forbidden:
            return False

    def follows_link(self, token: str) -> bool:
        """Whether the token is that of a link."""
        return self._signed(token, "link")

    def let_in(self, request: Request, response: Response) -> None:
        """Give the browser its cookie: out of reach of scripts, and of requests that other sites make it send."""
        response.set_cookie(
            self._cookie,
            self._token("browser"),
            max_age=LOGIN_S,
            path="/dashboard",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def is_rebound(request: Request) -> bool:
    """Whether a loopback address was reached by a name that is not loopback's: DNS rebinding by a page elsewhere."""
    local = request.scope.get("server")
    name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return local is not None and is_loopback(str(local[0])) and not is_loopback(name)


def is_foreign(request: Request) -> bool:
    """Whether another site's page sent this request."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")
