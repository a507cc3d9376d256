"""A database of another version, or of another program, is brought up to date or refused; on SQLite and PostgreSQL."""

import asyncio
from pathlib import Path

import alembic.command
import alembic.config
import pytest
from sqlalchemy import Engine, create_engine, inspect

import leyden.store.migrations
from leyden.errors import BadConfig
from leyden.store import SqlStore
from leyden.store.schema import metadata
from leyden.types import Rollout


def plain(place: str) -> Engine:
    """An engine that makes no tables."""
    url = place.replace("postgresql://", "postgresql+psycopg://") if "://" in place else f"sqlite:///{place}"
    return create_engine(url)


def execute(place: str, statement: str) -> None:
    engine = plain(place)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_database_that_is_not_ours_is_refused(place: str) -> None:
    execute(place, "CREATE TABLE songs (name TEXT)")
    with pytest.raises(BadConfig, match="holds other tables \\(songs\\)"):
        SqlStore.open(place)


async def test_a_database_of_a_newer_leyden_is_refused(place: str) -> None:
    await SqlStore.open(place).close()
    execute(place, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BadConfig, match=r"written by a newer Leyden .*upgrade leyden"):
        SqlStore.open(place)


async def test_the_migrations_make_the_tables_that_the_code_expects(place: str) -> None:
    await SqlStore.open(place).close()
    engine = plain(place)
    with engine.connect() as connection:
        found = inspect(connection)
        for table in metadata.tables.values():
            columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert columns == {column.name: column.nullable for column in table.columns}
            indexes = {index["name"] for index in found.get_indexes(table.name)}
            assert {index.name for index in table.indexes} <= indexes
    engine.dispose()


async def test_a_store_of_the_first_schema_is_brought_up_to_date_with_what_is_in_it(place: str) -> None:
    body = Rollout(id="old", task="x").model_dump_json(include={"id", "group_id", "task", "created_at"})
    body = body.removesuffix("}") + ',"max_attempts":3}'
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(leyden.store.migrations.__file__).parent))
    engine = plain(place)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        columns = "id, group_id, run, mode, status, attempt, body"
        connection.exec_driver_sql(
            f"INSERT INTO rollouts ({columns}) VALUES ('old', 'g', '', 'trace', 'queued', 1, '{body}')"
        )
    engine.dispose()
    store = SqlStore.open(place)
    (claim,) = await store.claim("me", limit=1, lease_s=600)
    assert (claim.rollout.task, claim.rollout.attempt, claim.rollout.released) == ("x", 2, 0)
    await store.close()


async def test_stores_that_are_opened_at_once_on_a_new_database_make_its_tables_once(database: str) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(SqlStore.open, database) for _ in range(4)))
    for number, store in enumerate(stores):
        await store.queue([Rollout(id=f"{number}")])
    assert len((await stores[0].rollouts()).rollouts) == 4
    for store in stores:
        await store.close()


def test_another_kind_of_database_is_refused_with_what_can_be_given() -> None:
    with pytest.raises(BadConfig, match="in mysql; give a database file, or postgresql://"):
        SqlStore.open("mysql://somebody@127.0.0.1/leyden")
    for nowhere in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(BadConfig, match="cannot keep a store in memory"):
            SqlStore.open(nowhere)


def test_a_database_server_that_is_not_there_is_one_error_without_the_password() -> None:
    with pytest.raises(BadConfig, match=r"cannot open postgresql.*127\.0\.0\.1") as refused:
        SqlStore.open("postgresql://somebody:a-secret@127.0.0.1:9/leyden")
    assert "a-secret" not in str(refused.value)
