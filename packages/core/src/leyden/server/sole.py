"""One server for a database file: its lock is the kernel's, which takes it back when the process ends, however it does.

Unlike a file with a process's number in it, it is never stale. Commands that only read the file need no lock.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import make_url

from leyden.errors import BadConfig

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two servers apart
    fcntl = None

__all__ = ["sole_server"]

_PATIENCE_S = 15.0
"""The server of a run that was killed may still be ending when the run is resumed; it has 5 s for its last requests."""
_PAUSE_S = 0.05


def sole_server(store: str | Path, *, patience_s: float = _PATIENCE_S) -> ExitStack:
    """Hold the lock beside a database file, STORE.lock, until the stack is closed; nothing for a database server, which
    several servers may share.

    Raises:
        BadConfig: another server has held it for all of `patience_s`, or it cannot be made.
    """
    held = ExitStack()
    place = make_url(str(store)).database if str(store).startswith("sqlite") and "://" in str(store) else str(store)
    if fcntl is None or place is None or "://" in place or place == ":memory:":
        return held
    lock = Path(f"{Path(place).resolve()}.lock")
    try:
        file = held.enter_context(lock.open("ab"))
    except OSError as error:
        raise BadConfig(
            f"cannot open the store {store}: its lock {lock} cannot be opened: {error.strerror}; is its folder there, "
            "and may the server write to it?"
        ) from error
    ends = time.monotonic() + patience_s
    while not _locked(file):
        if time.monotonic() >= ends:
            held.close()
            raise BadConfig(
                f"another server has {store} open (it holds {lock}); use that one, or stop it first. Several servers "
                "can share a database on PostgreSQL"
            )
        time.sleep(_PAUSE_S)
    return held


def _locked(file: BinaryIO) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
