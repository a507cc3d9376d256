import os
import random
import sqlite3
from pathlib import Path

import alembic.command
import alembic.config
import pytest
from sqlalchemy import create_engine

import leyden.store.migrations
from leyden.errors import BadConfig
from leyden.merge import merge
from leyden.store import SqlStore
from leyden.store.schema import metadata
from leyden.types import Attempt, Call, Choice, Request, Rollout


def gateway_call(call_id: str, rollout_id: str) -> Call:
    choice = Choice(message={"role": "assistant", "content": "hi"}, token_ids=(7, 8), logprobs=(-0.5, -0.25))
    made = Attempt(
        number=0,
        id=f"{call_id}-0",
        status="ok",
        started_at=5.0,
        latency_ms=1.0,
        version=3,
        prompt_token_ids=tuple(range(300)),
        choices=(choice,),
    )
    request = Request(messages=({"role": "user", "content": "hi"},), asked={"model": "m"})
    return Call(
        id=call_id,
        rollout_id=rollout_id,
        started_at=5.0,
        captured_by=("gateway",),
        request=request,
        attempts=(made,),
    )


async def test_a_store_is_there_again_when_it_is_opened_again(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a", task="x")])
    await store.claim("me", limit=1, lease_s=60)
    await store.record([gateway_call("c", "a")])
    await store.close()
    again = SqlStore.open(tmp_path / "store.sqlite")
    assert (await again.rollout("a")).task == "x"
    assert await again.call("c") == gateway_call("c", "a")
    await again.close()


def test_a_database_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(BadConfig, match="holds other tables \\(songs\\)"):
        SqlStore.open(path)


async def test_a_database_of_a_newer_leyden_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await SqlStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(BadConfig, match="written by a newer Leyden"):
        SqlStore.open(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be read as one" * 10)
    with pytest.raises(BadConfig, match="file is not a database"):
        SqlStore.open(path)


async def test_the_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await SqlStore.open(path).close()
    with sqlite3.connect(path) as connection:
        for table in metadata.tables.values():
            columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
            assert columns == {column.name for column in table.columns}
            indexes = {row[1] for row in connection.execute(f"PRAGMA index_list({table.name})")}
            assert {index.name for index in table.indexes} <= indexes
    connection.close()


async def test_a_store_of_the_first_schema_is_brought_up_to_date_with_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(leyden.store.migrations.__file__).parent))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        body = Rollout(id="old", task="x").model_dump_json(include={"id", "group_id", "task", "created_at"})
        body = body.removesuffix("}") + ',"max_attempts":3}'
        columns = "id, group_id, run, mode, status, attempt, body"
        row = ("old", "g", "", "trace", "queued", 1, body)
        connection.exec_driver_sql(f"INSERT INTO rollouts ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    engine.dispose()
    store = SqlStore.open(path)
    (claim,) = await store.claim("me", limit=1, lease_s=600)
    assert (claim.rollout.task, claim.rollout.attempt, claim.rollout.released) == ("x", 2, 0)
    await store.close()


async def test_a_long_conversation_costs_what_is_new_in_each_turn(tmp_path: Path) -> None:
    sizes: list[int] = []
    rng = random.Random(0)
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a")])
    await store.claim("me", limit=1, lease_s=600)
    prompt: tuple[int, ...] = ()
    messages: tuple[dict, ...] = ()
    for turn in range(100):
        prompt += tuple(rng.randrange(49_152) for _ in range(200))
        messages += ({"role": "user", "content": f"turn {turn} " + "word " * 150},)
        token_ids = tuple(rng.randrange(49_152) for _ in range(100))
        choice = Choice(message={"role": "assistant"}, token_ids=token_ids, logprobs=(-0.5,) * 100)
        attempt = Attempt(
            number=0, status="ok", started_at=turn, latency_ms=1, version=0, prompt_token_ids=prompt, choices=(choice,)
        )
        request = Request(messages=messages)
        await store.record([Call(id=str(turn), rollout_id="a", started_at=turn, request=request, attempts=(attempt,))])
        prompt += token_ids
        if turn % 50 == 49:
            sizes.append(_stored_bytes(tmp_path / "store.sqlite"))
    calls = await store.calls(["a"])
    assert calls[-1].attempts[0].prompt_token_ids == prompt[:-100]
    assert len(calls[-1].request.messages if calls[-1].request else ()) == 100
    await store.close()
    assert sizes[1] < 2.2 * sizes[0]
    assert sizes[1] < 600_000


def _stored_bytes(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        blocks = connection.execute("SELECT SUM(LENGTH(data)) + 40 * COUNT(*) FROM blocks").fetchone()[0]
        calls = connection.execute("SELECT SUM(LENGTH(record) + LENGTH(arrays)) FROM calls").fetchone()[0]
    connection.close()
    return blocks + calls


@pytest.mark.skipif(os.name != "posix", reason="limits the size of a file")
async def test_a_full_disk_is_one_clear_error_and_writing_goes_on_after_it(tmp_path: Path) -> None:
    import resource
    import signal

    from leyden.errors import Unreachable

    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="before")])
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(Unreachable, match="the store could not write: "):
            await store.queue([Rollout(id=f"big-{n}", task="x" * 20_000) for n in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    await store.queue([Rollout(id="after")])
    ids = {rollout.id for rollout in (await store.rollouts(limit=1000)).rollouts}
    assert {"before", "after"} <= ids
    await store.close()


def test_merging_is_idempotent_and_does_not_depend_on_order() -> None:
    whole = gateway_call("c", "a")
    retry = whole.attempts[0].model_copy(update={"id": "c-1", "number": 1, "status": "error"})
    parts = [
        whole,
        whole.model_copy(update={"attempts": (retry,)}),
        Call(id="c", rollout_id="a", started_at=9.0, captured_by=("adapter",)),
    ]
    import itertools
    from functools import reduce

    merged = {reduce(merge, order).model_dump_json() for order in itertools.permutations(parts)}
    assert len(merged) == 1
    once = reduce(merge, parts)
    assert all(merge(once, part) == once for part in parts)
    assert [attempt.id for attempt in once.attempts] == ["c-0", "c-1"]
