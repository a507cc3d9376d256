"""The backup that docs/operations.md gives, taken while clients write, and restored."""

import asyncio
import sqlite3
from pathlib import Path

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.types import Call, Reward, Rollout


async def test_a_backup_of_a_busy_store_has_all_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    place, copy = tmp_path / "team.sqlite", tmp_path / "backup.sqlite"
    with BackgroundServer(place) as server:
        store = HttpStore(server.url, server.key)
        await store.queue([Rollout(id="a")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        before = [Call(id=f"before-{number}", rollout_id="a") for number in range(50)]
        await store.record(before)
        await store.reward([Reward(id="r", rollout_id="a", value=0.5)])
        stop = asyncio.Event()

        async def write() -> None:
            number = 0
            while not stop.is_set():
                await store.record([Call(id=f"during-{number}", rollout_id="a")])
                number += 1

        writing = asyncio.create_task(write())
        await asyncio.to_thread(back_up, place, copy)
        stop.set()
        await writing
        await store.close()
    restored = SqlStore.open(copy)
    kept = {call.id: call for call in await restored.calls(["a"])}
    assert {call.id: kept.get(call.id) for call in before} == {call.id: call for call in before}
    assert [reward.value for reward in await restored.rewards(["a"])] == [0.5]
    assert await restored.rollout("a") == claim.rollout
    await restored.record([Call(id="after", rollout_id="a")])
    await restored.close()


def back_up(place: Path, copy: Path) -> None:
    """What `sqlite3 FILE ".backup 'COPY'"` does."""
    with sqlite3.connect(place) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
