"""Where a command reads from: a database file, or a server."""

import os
from pathlib import Path

from leyden.errors import BadConfig
from leyden.store.protocol import Store

__all__ = ["open_source"]


def open_source(store: str | None, server: str | None) -> Store:
    """The store to read: --store, else --server, else $LEYDEN_STORE, else the newest runs/*/store.sqlite.

    Raises:
        BadConfig: there is none, or the server's key is not known.
    """
    from leyden.client import HttpStore
    from leyden.store import SqlStore

    if store is None and server is not None:
        key = os.environ.get("LEYDEN_KEY")
        if not key:
            raise BadConfig(f"--server {server} needs its operator's key in LEYDEN_KEY")
        return HttpStore(server, key)
    place = store or os.environ.get("LEYDEN_STORE") or _newest()
    if "://" not in place and not Path(place).is_file():
        raise BadConfig(f"there is no store at {place}; name one with --store or --server")
    return SqlStore.open(place)


def _newest() -> str:
    found = [*Path("runs").glob("*/store.sqlite"), *Path("examples").glob("*/runs/*/store.sqlite")]
    if not found:
        raise BadConfig("there is no runs/*/store.sqlite here; name a store with --store or --server")
    return str(max(found, key=lambda path: path.stat().st_mtime))
