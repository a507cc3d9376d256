"""What an operation on Leyden's store costs when 10³, 10⁵ or 10⁶ rollouts are in it.

The stores are filled by one statement a table that copies what the verbs wrote; then operations take turns over all
sizes, so that whatever else the machine does meets each size alike.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ours import OurKeeper
from sqlalchemy import Connection, text
from workload import PROMPT

from leyden.store import SqlStore
from leyden.store.engine import open_engine, writing
from leyden.types import Claim, Endpoint, Reward

SEED = 1000
_COPIED = {"rollouts": ("id",), "calls": ("id", "rollout_id"), "rewards": ("id", "rollout_id", "call_id")}
_LEFT_OUT = ("seq",)
"""Numbered by the database."""


async def filled(place: Path, size: int) -> SqlStore:
    """A store with so many finished rollouts, each with a call and a reward."""
    store = SqlStore.open(place)
    keeper = OurKeeper(store)
    await store.publish(Endpoint(url="http://127.0.0.1:1/v1", model="stub"))
    await keeper.queue(SEED)
    claimed = await keeper.claim(SEED)
    await asyncio.gather(*(keeper.record(claim, [number, *PROMPT]) for number, claim in enumerate(claimed)))
    await asyncio.gather(*(keeper.finish(claim) for claim in claimed))
    engine = writing(open_engine(place))
    with engine.connect() as connection, connection.begin():
        for table, ids in _COPIED.items():
            _copy(connection, table, ids, size // SEED - 1)
    engine.dispose()
    return store


def _copy(connection: Connection, table: str, ids: tuple[str, ...], times: int) -> None:
    names = [row[1] for row in connection.execute(text(f"PRAGMA table_info({table})")) if row[1] not in _LEFT_OUT]
    values = [f"{name} || '-' || n" if name in ids else name for name in names]
    connection.execute(
        text(
            f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < :times) "
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM copies, {table} WHERE :times > 0"
        ),
        {"times": times},
    )


class Life:
    """The operations of one store, each on rollouts of its own."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self._keeper = OurKeeper(store)
        self._claimed: list[Claim] = []
        self._ids: list[str] = []

    async def queue(self) -> None:
        self._ids = await self._keeper.queue(1)

    async def claim(self) -> None:
        self._claimed = await self._keeper.claim(1)

    async def record(self) -> None:
        await self._keeper.record(self._claimed[0], PROMPT)

    async def reward(self) -> None:
        rollout = self._claimed[0].rollout
        await self.store.reward([Reward(rollout_id=rollout.id, attempt=rollout.attempt, value=1.0)])

    async def heartbeat(self) -> None:
        rollout = self._claimed[0].rollout
        await self.store.heartbeat("benchmark", [(rollout.id, rollout.attempt)], lease_s=3600)

    async def finish(self) -> None:
        await self._keeper.finish(self._claimed[0])

    async def wait(self) -> None:
        assert await self._keeper.wait(self._ids) == 1

    async def rollout(self) -> None:
        await self.store.rollout(self._ids[0])

    async def calls(self) -> None:
        await self.store.calls(self._ids)

    async def rewards(self) -> None:
        await self.store.rewards(self._ids)

    async def endpoints(self) -> None:
        await self.store.endpoints()

    async def newest(self) -> None:
        await self.store.rollouts(after=10, limit=20)

    async def one_group(self) -> None:
        await self.store.rollouts(group_id="nobody's", limit=20)

    async def incomplete(self) -> None:
        await self.store.rollouts(status="incomplete", mode="train", limit=20)

    async def census(self) -> None:
        await self.store.census()

    async def delete(self) -> None:
        await self.store.delete_rollouts(self._ids)

    @property
    def operations(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """In the order of a life."""
        return {
            "queue": self.queue,
            "claim": self.claim,
            "record a call": self.record,
            "reward": self.reward,
            "heartbeat": self.heartbeat,
            "finish": self.finish,
            "wait": self.wait,
            "read a rollout": self.rollout,
            "read its calls": self.calls,
            "read its rewards": self.rewards,
            "read endpoints": self.endpoints,
            "a page": self.newest,
            "a group": self.one_group,
            "the incomplete": self.incomplete,
            "census": self.census,
            "delete": self.delete,
        }


async def _main(folder: Path, sizes: list[int], rounds: int) -> None:
    begun = time.monotonic()
    lives = [Life(await filled(folder / f"{size}.sqlite", size)) for size in sizes]
    filled_s = time.monotonic() - begun
    taken: dict[str, list[list[float]]] = {}
    for number in range(rounds + 3):
        for name in lives[0].operations:
            for place, life in enumerate(lives):
                begun = time.perf_counter()
                await life.operations[name]()
                if number >= 3:  # the first ones read what is not in memory yet
                    taken.setdefault(name, [[] for _ in sizes])[place].append((time.perf_counter() - begun) * 1000)
    for life in lives:
        await life.store.close()
    medians = {name: [statistics.median(one) for one in columns] for name, columns in taken.items()}
    bytes_rollout = (folder / f"{sizes[-1]}.sqlite").stat().st_size / sizes[-1]
    print(json.dumps({"ms": medians, "filled_s": filled_s, "bytes_rollout": bytes_rollout}), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])))
