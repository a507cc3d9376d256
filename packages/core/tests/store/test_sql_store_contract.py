"""The SQL store on a real SQLite file, and on a real PostgreSQL server, keeps the contract of all stores."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leyden.store import SqlStore
from leyden.testing.store_contract import StoreContract


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqlStore]:
        store = SqlStore.open(tmp_path / "store.sqlite")
        yield store
        await store.close()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def store(self, database: str) -> AsyncIterator[SqlStore]:
        store = SqlStore.open(database)
        yield store
        await store.close()
