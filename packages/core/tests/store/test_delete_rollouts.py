"""Deleting a rollout takes all that belongs to it, and nothing that another one still needs."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leyden.errors import Conflict, NotFound
from leyden.store import SqlStore
from leyden.testing.records import claimed, ended, rewarded, sampled, told
from leyden.types import Credit, Rollout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "what? 100%#1.sqlite"


@pytest.fixture
async def store(place: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(place)
    yield store
    await store.close()


def rows(place: Path, table: str) -> int:
    connection = sqlite3.connect(place)
    (count,) = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
    connection.close()
    return count


async def finished(store: SqlStore, name: str, tokens: int) -> None:
    await claimed(store, name)
    await store.record([sampled(name, f"call of {name}", prompt_token_ids=tuple(range(tokens)))])
    await store.record([told(name, f"call of {name}")])  # the merge writes the call again, and must not leak a block
    await store.credit([Credit(call_id="x", rollout_id=name, run="r", step=1, method="m", advantage=0.0)])
    await store.finish(ended(name, rewards=(rewarded(name),)))


async def test_blocks_go_with_the_last_call_that_needs_them(store: SqlStore, place: Path) -> None:
    await finished(store, "short", 300)
    only_one = rows(place, "blocks")
    await finished(store, "long", 1000)
    await store.delete_rollouts(["long"])
    assert rows(place, "blocks") == only_one
    (kept,) = await store.calls(["short"])
    assert kept.attempts[0].prompt_token_ids == tuple(range(300))
    await store.delete_rollouts(["short"])
    assert [rows(place, table) for table in ("blocks", "calls", "rewards", "credits", "rollouts")] == [0] * 5
    with pytest.raises(NotFound):
        await store.rollout("short")


async def test_deleting_again_changes_nothing_and_what_goes_on_stays(store: SqlStore) -> None:
    await finished(store, "done", 10)
    await claimed(store, "running")
    with pytest.raises(Conflict, match="running"):
        await store.delete_rollouts(["done", "running"])
    assert (await store.rollout("done")).finished
    await store.delete_rollouts(["done"])
    await store.delete_rollouts(["done"])


async def test_a_cursor_never_misses_what_comes_after_a_deletion(store: SqlStore) -> None:
    await finished(store, "one", 10)
    cursor = (await store.rollouts()).cursor
    await store.delete_rollouts(["one"])
    await store.queue([Rollout(id="two")])
    assert [rollout.id for rollout in (await store.rollouts(after=cursor)).rollouts] == ["two"]
