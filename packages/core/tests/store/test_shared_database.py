"""Several stores on one PostgreSQL database, as of several servers: they hear each other, and outlive it."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator

import psycopg
import pytest

from leyden.errors import BadInput, NotFound, Unreachable
from leyden.store import SqlStore
from leyden.testing.postgres_server import PostgresServer
from leyden.testing.records import claimed, ended, rewarded, sampled
from leyden.types import Rollout

PATIENCE_S = 60.0
SHORT_S = 0.05


@pytest.fixture
async def stores(database: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    here, there = SqlStore.open(database), SqlStore.open(database)
    yield here, there
    await here.close()
    await there.close()


def ask(database: str, query: str) -> list[tuple]:
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


async def test_who_waits_at_one_server_hears_of_what_another_wrote(stores: tuple[SqlStore, SqlStore]) -> None:
    here, there = stores
    claiming = asyncio.create_task(there.claim("ann", limit=1, lease_s=600, wait_s=PATIENCE_S))
    assert await there.claim("bob", limit=1, lease_s=600, wait_s=SHORT_S) == []
    await here.queue([Rollout(id="one", mode="train")])
    assert [claim.rollout.id for claim in await claiming] == ["one"]
    waiting = asyncio.create_task(here.wait(["one"], timeout_s=PATIENCE_S))
    outcome = ended("one", rewards=(rewarded("one"),), call_ids=("x",), wait_s=PATIENCE_S)
    finishing = asyncio.create_task(there.finish(outcome))
    assert await here.wait(["one"], timeout_s=SHORT_S) == []
    await here.record([sampled("one", "x")])
    assert (await finishing).status == "succeeded"
    assert [rollout.status for rollout in await waiting] == ["succeeded"]


async def test_topics_that_fill_several_notifications_are_all_heard(stores: tuple[SqlStore, SqlStore]) -> None:
    here, there = stores
    names = [f"{number} ✓" + "x" * 150 for number in range(200)]
    await claimed(here, *names, mode="trace", max_attempts=1)
    waits = [asyncio.create_task(there.wait([name], timeout_s=PATIENCE_S)) for name in names]
    assert await there.wait(names, timeout_s=SHORT_S) == []
    await here.heartbeat("ann", [(name, 1) for name in names], lease_s=SHORT_S)
    ends = await asyncio.gather(*waits)
    assert [rollout.id for (rollout,) in ends] == names


async def test_a_lease_that_a_dead_server_gave_is_ended_by_another(stores: tuple[SqlStore, SqlStore]) -> None:
    here, there = stores
    waiting = asyncio.create_task(there.wait(["one"], timeout_s=PATIENCE_S))
    assert await there.wait(["one"], timeout_s=SHORT_S) == []
    await here.queue([Rollout(id="one", max_attempts=1)])
    await here.claim("ann", limit=1, lease_s=SHORT_S)
    await here.close()
    (rollout,) = await waiting
    assert rollout.status == "incomplete"


async def test_waiting_goes_on_when_the_database_ends_all_connections(
    stores: tuple[SqlStore, SqlStore], database: str
) -> None:
    here, there = stores
    claiming = asyncio.create_task(there.claim("ann", limit=1, lease_s=600, wait_s=PATIENCE_S))
    assert await there.claim("bob", limit=1, lease_s=600, wait_s=SHORT_S) == []
    others = "FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = current_database()"
    ended = ask(database, f"SELECT pg_terminate_backend(pid, 60000) {others} AND backend_type = 'client backend'")
    assert len(ended) >= 2
    await here.queue([Rollout(id="one")])
    assert [claim.rollout.id for claim in await claiming] == ["one"]


async def test_a_database_that_crashed_is_used_again_once_it_is_back(
    stores: tuple[SqlStore, SqlStore], postgres: PostgresServer
) -> None:
    here, there = stores
    await here.queue([Rollout(id="before")])
    await there.endpoints()
    claiming = asyncio.create_task(there.claim("ann", limit=2, lease_s=600, wait_s=PATIENCE_S))
    assert [claim.rollout.id for claim in await claiming] == ["before"]
    claiming = asyncio.create_task(there.claim("ann", limit=2, lease_s=600, wait_s=PATIENCE_S))
    assert await there.claim("bob", limit=1, lease_s=600, wait_s=SHORT_S) == []
    await asyncio.to_thread(postgres.crash)
    for refused in (here.queue([Rollout(id="lost")]), here.rollout("before")):
        with pytest.raises(Unreachable, match=r"the store could not (write|read)"):
            await refused
    await asyncio.to_thread(postgres.start)
    await here.queue([Rollout(id="after")])
    assert [claim.rollout.id for claim in await claiming] == ["after"]
    with pytest.raises(NotFound):
        await there.rollout("lost")


async def test_blocks_that_servers_share_are_counted_exactly(stores: tuple[SqlStore, SqlStore], database: str) -> None:
    """Both store calls with the same new prompt at the same time; when all are gone, no block is left."""
    here, there = stores
    names = ["here", "there"]
    await claimed(here, *names)
    for turn in range(40):
        prompt = tuple(range(turn, turn + 1300))
        calls = [sampled(name, f"{name} {turn}", prompt_token_ids=prompt, started_at=turn) for name in names]
        await asyncio.gather(here.record(calls[:1]), there.record(calls[1:]))
        assert [(await here.call(call.id)).attempts for call in calls] == [call.attempts for call in calls]
    await asyncio.gather(*(store.finish(ended(name)) for store, name in zip(stores, names, strict=True)))
    assert ask(database, "SELECT refs FROM blocks") != []
    await asyncio.gather(*(store.delete_rollouts([name]) for store, name in zip(stores, names, strict=True)))
    assert ask(database, "SELECT refs FROM blocks") == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of other processes")
async def test_a_full_disk_is_one_clear_error_and_writing_goes_on_after_it(
    stores: tuple[SqlStore, SqlStore], postgres: PostgresServer
) -> None:
    one, two = stores
    await one.queue([Rollout(id="before")])
    big = [Rollout(id=f"big-{n}", task=random.Random(n).randbytes(200_000).hex()) for n in range(100)]
    with postgres.full_disk(), pytest.raises(Unreachable, match="the store could not write: could not extend file"):
        await one.queue(big)
    await two.queue([Rollout(id="after")])
    assert [rollout.id for rollout in (await one.rollouts()).rollouts] == ["before", "after"]


async def test_what_postgres_cannot_hold_is_refused_in_words(stores: tuple[SqlStore, SqlStore]) -> None:
    here, _ = stores
    for refused in (
        here.queue([Rollout(id="no\0text")]),
        here.rollout("no\0text"),
        here.rollouts(after=2**70),
    ):
        with pytest.raises(BadInput, match="the database refused a value"):
            await refused
    await here.queue([Rollout(id="one", task="a NUL in a task is fine: \0")])
    assert (await here.rollout("one")).task == "a NUL in a task is fine: \0"
