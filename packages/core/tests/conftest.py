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
