"""Operators' keys with names and roles in a file of JSON lines: their hashes, and the secret that signs rollout keys.

Unlike a table in the store it is edited where the server's secrets are kept, and no key of the store can change it. The
server looks at it once a second, so that keys come and go without a restart.
"""

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from leyden.errors import BadConfig, BadInput, Conflict, NotFound

__all__ = ["KeyEntry", "KeyFile", "Role", "SigningEntry", "hash_of"]

_log = logging.getLogger("leyden.keys")
_FRESH_S = 1.0

Role = Literal["read", "run", "train"]
"""read: look at everything but policy servers' keys. run: also claim, record, reward and finish (runners).
train: also queue, publish endpoints and keep credits."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    created_at: float = Field(default_factory=time.time)


class KeyEntry(_Entry):
    """One operator's key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")
    role: Role
    sha256: str
    """Enough, without salt or stretching, for a key of 256 random bits: it cannot be guessed."""


class SigningEntry(_Entry):
    """A secret that signs rollout keys: the newest one does, older ones are believed as long as such keys last."""

    signing: str


_ENTRY: TypeAdapter[KeyEntry | SigningEntry] = TypeAdapter(KeyEntry | SigningEntry)
_Entries = tuple[KeyEntry | SigningEntry, ...]


def hash_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyFile:
    """The file at `path`, as it is now.

    Raises:
        BadConfig: others than its owner may read it, or a line is no key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._looked_at = float("-inf")
        self._reads = 0
        self._entries: _Entries = ()
        self._roles: Mapping[str, Role] = {}
        self._load()

    def reads(self) -> int:
        """How often its content was read: more than before after a change. Looks at most once a second."""
        if time.monotonic() - self._looked_at > _FRESH_S:
            try:
                self._load()
            except BadConfig as error:  # a bad edit must not stop a team's rollouts: what was right before stays
                _log.error("the key file is not used as it is now, its last right content is: %s", error)
        return self._reads

    def roles(self) -> Mapping[str, Role]:
        """The role of each key, by its hash."""
        self.reads()
        return self._roles

    def signing(self) -> Sequence[bytes]:
        """The secrets of rollout keys, newest first."""
        self.reads()
        kept = [entry for entry in self._entries if isinstance(entry, SigningEntry)]
        kept.sort(key=lambda entry: entry.created_at, reverse=True)
        return [bytes.fromhex(entry.signing) for entry in kept]

    def names(self) -> Sequence[KeyEntry]:
        """Every operator's key, oldest first."""
        return [entry for entry in self._entries if isinstance(entry, KeyEntry)]

    def _load(self) -> None:
        self._looked_at = time.monotonic()
        try:
            state = self.path.stat()
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen == self._seen:
                return
            self._seen = seen  # also of what is refused: it is complained of once
            if os.name == "posix" and state.st_mode & 0o077:
                raise BadConfig(
                    f"{self.path} can be read by others than its owner, and holds a secret: chmod 600 {self.path}"
                )
            text = self.path.read_text()
        except FileNotFoundError:
            if self._seen is not None:
                raise BadConfig(f"{self.path} is gone; put it back, or restart the server without it") from None
            return
        except OSError as error:
            raise BadConfig(f"cannot read the key file {self.path}: {error.strerror}") from error
        entries = _parsed(text, self.path)
        self._entries = entries
        self._roles = {entry.sha256: entry.role for entry in entries if isinstance(entry, KeyEntry)}
        self._reads += 1

    def add(self, name: str, role: Role) -> str:
        """Add an operator's key; the key itself, which is not kept.

        Raises:
            BadInput: the name is none.
            Conflict: a key has this name.
        """
        key = f"leyden-{role}-{secrets.token_urlsafe(32)}"
        try:
            new = KeyEntry(name=name, role=role, sha256=hash_of(key))
        except ValidationError as error:
            raise BadInput(f"{name!r} is no name for a key; use up to 100 letters, digits and . _ @ -") from error

        def added(entries: _Entries) -> _Entries:
            if any(isinstance(entry, KeyEntry) and entry.name == name for entry in entries):
                raise Conflict(f"{self.path} has a key named {name!r}; revoke that, or give the new one its own name")
            return (*_signed(entries), new)

        self._change(added)
        return key

    def revoke(self, name: str) -> None:
        """Take a key away; a server forgets it within a second.

        Raises:
            NotFound: no key has this name.
        """

        def revoked(entries: _Entries) -> _Entries:
            left = tuple(entry for entry in entries if not (isinstance(entry, KeyEntry) and entry.name == name))
            if len(left) == len(entries):
                raise NotFound(f"{self.path} has no key named {name!r}")
            return left

        self._change(revoked)

    def rotate_signing(self, lasting_s: float) -> None:
        """Sign rollout keys with a new secret; one whose last key is older than `lasting_s` is forgotten (0: all)."""

        def rotated(entries: _Entries) -> _Entries:
            new = _new_signing()
            signing = sorted((e for e in entries if isinstance(e, SigningEntry)), key=lambda entry: entry.created_at)
            believed_until = pairwise([*signing, new])  # a secret signed until its successor was made
            old = {id(entry) for entry, next_ in believed_until if next_.created_at <= new.created_at - lasting_s}
            return (*(entry for entry in entries if id(entry) not in old), new)

        self._change(rotated)

    def _change(self, change: Callable[[_Entries], _Entries]) -> None:
        """Write the file anew as a whole, one at a time."""
        self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Conflict(f"{lock} is there: another command changes the keys; if none does, remove it") from None
        try:
            with os.fdopen(descriptor, "w") as file:
                self._load()
                file.writelines(f"{entry.model_dump_json()}\n" for entry in change(self._entries))
                file.flush()
                os.fsync(file.fileno())
            os.replace(lock, self.path)
        except BaseException:
            lock.unlink()
            raise
        self._load()


def _parsed(text: str, path: Path) -> _Entries:
    entries: list[KeyEntry | SigningEntry] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entries.append(_ENTRY.validate_python(json.loads(line)))
        except ValueError as error:
            raise BadConfig(f"line {number} of {path} is no key that `leyden keys add` wrote: {error}") from error
    return tuple(entries)


def _new_signing() -> SigningEntry:
    return SigningEntry(signing=secrets.token_hex(32))


def _signed(entries: _Entries) -> _Entries:
    """The entries, with a secret among them that signs."""
    return entries if any(isinstance(entry, SigningEntry) for entry in entries) else (*entries, _new_signing())
