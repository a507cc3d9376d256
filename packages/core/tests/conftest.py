"""One PostgreSQL server for all tests of a run, started when the first one asks for it; a new database for each."""

from collections.abc import Iterator

import pytest

from leyden.testing.postgres_server import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> str:
    """Where a store can be opened: a file, or a database of a PostgreSQL server."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("tmp_path") / "store.sqlite")
    return request.getfixturevalue("database")
