"""One PostgreSQL server for all tests of a run, started when the first one asks for it; a new database for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from leyden.testing.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    from leyden.testing.postgres_server import postgres_server  # the environments of single frameworks do without

    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: "PostgresServer") -> str:
    return postgres.database()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> str:
    """Where a store can be opened: a file, or a database of a PostgreSQL server."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("tmp_path") / "store.sqlite")
    return request.getfixturevalue("database")
