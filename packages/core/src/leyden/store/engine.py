"""Opens the database behind a store, SQLite in WAL mode or PostgreSQL, and brings its tables up to date.

On either, one transaction writes at a time, whatever process it is in: SQLite takes its write lock at the start, and on
PostgreSQL a lock of our own stands for it. So nothing is claimed twice, no count is lost, and cursors miss no row.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from leyden.errors import BadConfig
from leyden.store.migrations import migrate

__all__ = ["open_engine", "reading", "writing"]

_WRITER_LOCK = (
    0x6C657964656E  # "leyden"; advisory locks are of one database, so other databases of a server do not meet
)

_POSTGRES_ARGUMENTS = {
    "application_name": "leyden",
    "connect_timeout": "10",
    # A database behind a network that drops everything is given up in half a minute, not in a quarter of an hour.
    "tcp_user_timeout": "30000",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}

# A server that stops within a transaction, or vanishes with its machine, holds the others up no longer than this.
_POSTGRES_SESSION = """
SELECT set_config('idle_in_transaction_session_timeout', '30s', false), set_config('lock_timeout', '40s', false),
    set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)
"""


def open_engine(place: str | Path) -> Engine:
    """Open a database file (made if there is none) or an SQLAlchemy URL.

    Raises:
        BadConfig: it is not a Leyden store, it was written by a newer Leyden, or it cannot be opened.
    """
    try:
        url = _named(make_url(str(place))) if "://" in str(place) else _sqlite(Path(place))
        engine = _engine(url)
    except SQLAlchemyError as error:
        raise BadConfig(f"cannot open the store: {error}; give a file, or postgresql://USER@HOST/DATABASE") from error
    except ImportError as error:
        raise BadConfig(
            f"cannot open the store: {error}; install the driver with `pip install leyden[postgres]`"
        ) from error
    try:
        _migrate(engine, repr(url))
    except BadConfig:
        engine.dispose()
        raise
    return engine


def _named(url: URL) -> URL:
    """The URL with the driver that we use.

    Raises:
        BadConfig: it is of another kind of database.
    """
    kind = url.get_backend_name()
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    if kind == "sqlite":
        raise BadConfig(f"cannot keep a store in memory, as {url!r} asks for; give a database file")
    raise BadConfig(f"cannot keep a store in {kind}; give a database file, or postgresql://USER@HOST/DATABASE")


def _sqlite(file: Path) -> URL:
    return URL.create("sqlite", database=str(file.absolute()))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        # Whoever is next takes the connection that was used last: what the others have in memory is stale.
        engine = create_engine(url, pool_use_lifo=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    url = url.update_query_dict({**_POSTGRES_ARGUMENTS, **url.query})
    # A look before each use costs a round trip, and spares the callers an error after the database was started again.
    engine = create_engine(url, pool_pre_ping=True)
    event.listen(engine, "connect", _prepare_postgres)
    event.listen(engine, "begin", _begin_postgres)
    return engine


def _migrate(engine: Engine, name: str) -> None:
    try:
        migrate(writing(engine), name)
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise BadConfig(
            f"cannot open {name}: {cause}; is it a Leyden store, in a folder or on a database server that is there?"
        ) from error


def writing(engine: Engine) -> Engine:
    """The same engine, whose transactions wait at their start until no other one writes."""
    return engine.execution_options(leyden_writing=True)


def reading(engine: Engine) -> Engine:
    """The same engine, whose transactions see the database as it was at their first look."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    settings = ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
    # What a savepoint keeps to go back to is dropped when it ends: it needs no file. A page that many commits change is
    # copied into the database once for all of them, out of a log of up to 32 MB; the blocks' index stays in memory.
    for pragma in (*settings, "temp_store = MEMORY", "wal_autocheckpoint = 8000", "cache_size = -16384"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _prepare_postgres(connection: Any, _record: Any) -> None:
    connection.execute(_POSTGRES_SESSION)
    connection.commit()


def _begin_postgres(connection: Connection) -> None:
    if _writes(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


def _writes(connection: Connection) -> bool:
    return connection.get_execution_options().get("leyden_writing", False)
