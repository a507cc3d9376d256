"""The operator's key opens everything; a rollout key, a signed token (JWT, HS256), opens one attempt of one rollout.

Nothing is stored: rollout keys are signed with a secret derived from the operator's key, so they survive a restart.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

import jwt
from jwt.types import Options

from leyden.errors import Forbidden

__all__ = ["STAND_IN_KEY", "Access", "Keys", "new_operator_key"]

STAND_IN_KEY = "leyden"
"""A worker's OPENAI_API_KEY where the user has none: clients refuse to be built without one. It opens nothing."""


_REMEMBERED = 4096


def new_operator_key() -> str:
    """A random operator key of 43 characters."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Access:
    """What a key opens: everything (operator), or one attempt of one rollout."""

    rollout_id: str | None = None
    attempt: int | None = None

    @property
    def operator(self) -> bool:
        return self.rollout_id is None


class Keys:
    """Mints rollout keys and tells what a key opens."""

    def __init__(self, operator_key: str) -> None:
        self._operator_key = operator_key.encode()
        self._opened: dict[
            str, Access
        ] = {}  # what a signature once proved stays so; an agent's key comes with every call
        self._secret = self.secret("rollout keys")

    def rollout_key(self, rollout_id: str, attempt: int) -> str:
        """The key of one attempt of one rollout."""
        claims = {"rollout": rollout_id, "attempt": attempt}
        return jwt.encode(claims, self._secret, algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]

    def secret(self, purpose: str) -> bytes:
        """A secret of 32 bytes that follows from the operator's key and tells nothing of it."""
        return hashlib.sha256(f"leyden {purpose}\0".encode() + self._operator_key).digest()

    def open(self, key: str) -> Access:
        """What `key` opens.

        Raises:
            Forbidden: it is neither the operator's key nor a token signed here.
        """
        if hmac.compare_digest(key.encode(), self._operator_key):
            return Access()
        access = self._opened.get(key)
        if access is None:
            access = self._checked(key)
            if len(self._opened) >= _REMEMBERED:
                self._opened.clear()
            self._opened[key] = access
        return access

    def _checked(self, key: str) -> Access:
        try:
            claims = _decode(key, self._secret)
        except jwt.InvalidTokenError as error:
            raise Forbidden(
                "the key is neither this server's operator key nor one of its rollout keys; "
                "set LEYDEN_KEY to the key that `leyden serve` printed"
            ) from error
        return Access(str(claims["rollout"]), int(str(claims["attempt"])))


def _decode(key: str, secret: bytes) -> dict[str, object]:
    options: Options = {"require": ["rollout", "attempt"]}
    return jwt.decode(key, secret, algorithms=["HS256"], options=options)  # pyright: ignore[reportUnknownMemberType]
