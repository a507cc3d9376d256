"""Who a key is: an operator with a role, or one attempt of one rollout (a signed token: JWT, HS256, with an expiry).

Rollout keys are not stored: they are signed with a secret made from the server's own key, or with that of the key file,
so they survive a restart. Of the operators' keys in a key file only hashes are known (`leyden.key_file`).
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jwt
from jwt.types import Options

from leyden.errors import BadConfig, Forbidden
from leyden.key_file import KeyFile, Role, hash_of

__all__ = ["ROLLOUT_KEY_S", "STAND_IN_KEY", "Access", "Keys", "new_operator_key"]

STAND_IN_KEY = "leyden"
"""A worker's OPENAI_API_KEY where the user has none: clients refuse to be built without one. It opens nothing."""

ROLLOUT_KEY_S = 7 * 86400
"""How long a rollout's key lasts at most: longer than any rollout. It ends with its attempt anyway."""

_REMEMBERED = 4096
_RANKS: dict[Role, int] = {"read": 1, "run": 2, "train": 3}


def new_operator_key() -> str:
    """A random operator key of 43 characters."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Access:
    """What a key opens: what its operator's role allows, or one attempt of one rollout until `expires_at`."""

    rollout_id: str | None = None
    attempt: int | None = None
    expires_at: float = math.inf
    role: Role | None = None

    def allows(self, role: Role) -> bool:
        """Whether it is the key of an operator with this role or a higher one."""
        return self.role is not None and _RANKS[self.role] >= _RANKS[role]

    def __str__(self) -> str:
        return f"an operator's key with role {self.role}" if self.role else f"the key of rollout {self.rollout_id}"


class Keys:
    """Mints rollout keys and tells what a key opens.

    Args:
        operator_key: the server's own key, of role train.
        file: further operators' keys, looked at again when the file changes; it then signs rollout keys.

    Raises:
        BadConfig: there is neither, or the file cannot be used.
    """

    def __init__(self, operator_key: str | None = None, *, file: KeyFile | None = None) -> None:
        if operator_key is None and (file is None or not file.roles()):
            where = f" into {file.path}" if file else ""
            raise BadConfig(f"no operator's key: put one{where} with `leyden keys add NAME`, or set LEYDEN_KEY")
        self._operator_key = None if operator_key is None else operator_key.encode()
        self._file = file
        self._read = -1
        self._opened: dict[str, Access] = {}
        """What a signature once proved stays so; an agent's key comes with every call."""

    def _secrets(self) -> Sequence[bytes]:
        """What signs rollout keys first, then what else is believed."""
        own = [] if self._operator_key is None else [b"leyden rollout keys\0" + self._operator_key]
        kept: Sequence[bytes] = () if self._file is None else self._file.signing()
        return [hashlib.sha256(secret).digest() for secret in (*kept, *own)]

    def rollout_key(self, rollout_id: str, attempt: int) -> str:
        """The key of one attempt of one rollout."""
        claims = {"rollout": rollout_id, "attempt": attempt, "exp": int(time.time()) + ROLLOUT_KEY_S}
        return jwt.encode(claims, self._secrets()[0], algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]

    def secret(self, purpose: str) -> bytes:
        """A secret of 32 bytes that follows from the one that signs rollout keys, and tells nothing of it."""
        return hmac.digest(self._secrets()[0], f"leyden {purpose}".encode(), "sha256")

    def open(self, key: str) -> Access:
        """What `key` opens.

        Raises:
            Forbidden: it is nobody's, or a rollout's that expired.
        """
        if self._file is not None and self._file.reads() != self._read:
            self._opened.clear()
            self._read = self._file.reads()
        access = self._opened.get(key)
        if access is None:
            access = self._operator(key)
            if access is not None:
                return access
            access = self._rollout(key)
            if len(self._opened) >= _REMEMBERED:
                self._opened.clear()
            self._opened[key] = access
        if time.time() >= access.expires_at:
            raise Forbidden(
                f"the key of rollout {access.rollout_id} has expired: it lasts {ROLLOUT_KEY_S // 86400} days"
            )
        return access

    def _operator(self, key: str) -> Access | None:
        if self._operator_key is not None and hmac.compare_digest(key.encode(), self._operator_key):
            return Access(role="train")
        role = None if self._file is None else self._file.roles().get(hash_of(key))
        return None if role is None else Access(role=role)

    def _rollout(self, key: str) -> Access:
        for secret in self._secrets():
            try:
                claims = _decode(key, secret)
            except jwt.InvalidTokenError:
                continue
            return Access(str(claims["rollout"]), int(str(claims["attempt"])), float(str(claims["exp"])))
        raise Forbidden(
            "the key is neither an operator's of this server nor one of its rollout keys; "
            "set LEYDEN_KEY to the key that `leyden serve` or `leyden keys add` printed"
        )


def _decode(key: str, secret: bytes) -> dict[str, object]:
    """The claims; that it expired is said by `open`, in words of ours."""
    options: Options = {"require": ["rollout", "attempt", "exp"], "verify_exp": False}
    return jwt.decode(key, secret, algorithms=["HS256"], options=options)  # pyright: ignore[reportUnknownMemberType]
