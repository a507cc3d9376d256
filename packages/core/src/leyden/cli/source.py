"""Where a command reads from: a database file, or a server; and the rollout that is meant."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from leyden.errors import BadConfig, NotFound
from leyden.store.protocol import Store
from leyden.types import Rollout

if TYPE_CHECKING:  # SQLAlchemy is wanted by few commands
    from leyden.store import SqlStore

__all__ = ["find_rollout", "open_source", "open_sql_store"]


def open_source(store: str | None, server: str | None) -> Store:
    """The store to read: --store, else --server, else $LEYDEN_STORE, else the newest runs/*/store.sqlite.

    Raises:
        BadConfig: there is none, or the server's key is not known.
    """
    from leyden.client import HttpStore

    if store is None and server is not None:
        key = os.environ.get("LEYDEN_KEY")
        if not key:
            raise BadConfig(f"--server {server} needs its operator's key in LEYDEN_KEY")
        return HttpStore(server, key)
    return open_sql_store(store)


def open_sql_store(store: str | None) -> "SqlStore":
    """The database: --store, else $LEYDEN_STORE, else the newest runs/*/store.sqlite.

    Raises:
        BadConfig: there is none.
    """
    from leyden.store import SqlStore

    place = store or os.environ.get("LEYDEN_STORE") or _newest()
    if "://" not in place and not Path(place).is_file():
        raise BadConfig(f"there is no store at {place}; name one with --store or --server")
    return SqlStore.open(place)


def _newest() -> str:
    found = [*Path("runs").glob("*/store.sqlite"), *Path("examples").glob("*/runs/*/store.sqlite")]
    if not found:
        raise BadConfig("there is no runs/*/store.sqlite here; name a store with --store or --server")
    return str(max(found, key=lambda path: path.stat().st_mtime))


async def find_rollout(source: Store, name: str) -> Rollout:
    """A rollout by its id, by a call's, or by the beginning of its own.

    Raises:
        NotFound: there is none, or there are several.
    """
    try:
        return await source.rollout(name)
    except NotFound:
        pass
    try:
        call = await source.call(name)
        if call.rollout_id is not None:
            return await source.rollout(call.rollout_id)
    except NotFound:
        pass
    found: list[Rollout] = []
    after, more = 0, True
    while more and len(found) < 2:
        page = await source.rollouts(after=after, limit=1000)
        found += [rollout for rollout in page.rollouts if rollout.id.startswith(name)]
        after, more = page.cursor, page.more
    if not found:
        raise NotFound(f"no rollout and no call has the id {name!r}, or a beginning like it; see `leyden rollouts`")
    if len(found) > 1:
        raise NotFound(f"several rollouts begin with {name!r}: {found[0].id}, {found[1].id}, ...; give more of the id")
    return found[0]
