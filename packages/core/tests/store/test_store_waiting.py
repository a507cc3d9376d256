"""Who waits for a part of the store looks again when that part changed, and sleeps through all other commits."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from leyden.store import SqlStore
from leyden.testing.records import claimed, ended, rewarded, sampled
from leyden.types import Rollout


class Looks:
    """Counts the statements with `words` in them that SQLite runs, with their values filled in."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.count = 0
        self.first = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def trace(self, connection: sqlite3.Connection, _: object) -> None:
        """Listen to a connection from now on."""
        connection.set_trace_callback(self._heard)

    def _heard(self, statement: str) -> None:
        if self.words in " ".join(statement.split()):
            self.count += 1
            self._loop.call_soon_threadsafe(self.first.set)


@pytest.fixture
async def looks(request: pytest.FixtureRequest) -> AsyncIterator[Looks]:
    counting = Looks(request.param)
    event.listen(Engine, "connect", counting.trace)
    yield counting
    event.remove(Engine, "connect", counting.trace)


@pytest.fixture
async def store(tmp_path: Path, looks: Looks) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(tmp_path / "store.sqlite")
    looks.count = 0
    looks.first.clear()
    yield store
    await store.close()


async def bustle(store: SqlStore) -> None:
    """Twenty commits that concern another rollout."""
    for number in range(10):
        await store.record([sampled("busy", f"call {number}")])
        await store.reward([rewarded("busy")])


@pytest.mark.parametrize("looks", ["rollouts.status != 'queued' AND rollouts.status != 'running'"], indirect=True)
async def test_who_waits_for_an_end_looks_twice_however_much_else_is_written(store: SqlStore, looks: Looks) -> None:
    await claimed(store, "mine", "busy")
    waiting = asyncio.create_task(store.wait(["mine"], timeout_s=60))
    await looks.first.wait()
    await bustle(store)
    await store.record([sampled("mine", "x")])
    await store.finish(ended("mine", rewards=(rewarded("mine"),)))
    assert [rollout.id for rollout in await waiting] == ["mine"]
    assert looks.count == 2


@pytest.mark.parametrize("looks", ["calls.status IS NOT NULL"], indirect=True)
async def test_who_waits_for_calls_looks_when_one_of_the_rollout_came(store: SqlStore, looks: Looks) -> None:
    await claimed(store, "mine", "busy")
    outcome = ended("mine", rewards=(rewarded("mine"),), call_ids=("x",), wait_s=60)
    finishing = asyncio.create_task(store.finish(outcome))
    await looks.first.wait()
    await bustle(store)
    await store.record([sampled("mine", "x")])
    assert (await finishing).status == "succeeded"
    assert looks.count == 2


@pytest.mark.parametrize("looks", ["SELECT rollouts.seq FROM rollouts WHERE rollouts.status = "], indirect=True)
async def test_an_idle_runner_looks_when_something_was_queued(store: SqlStore, looks: Looks) -> None:
    await claimed(store, "busy")
    looks.count = 0
    looks.first.clear()
    claiming = asyncio.create_task(store.claim("ann", limit=1, lease_s=600, wait_s=60))
    await looks.first.wait()
    await bustle(store)
    await store.queue([Rollout(id="new")])
    assert [claim.rollout.id for claim in await claiming] == ["new"]
    assert looks.count == 3  # nothing queued, no lease that ran out; then one that is queued
