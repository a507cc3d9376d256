"""Two server processes on one PostgreSQL database, and runners at both: nothing is claimed twice, no call is lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from leyden.client import HttpStore
from leyden.testing.postgres_server import PostgresServer
from leyden.testing.records import ended, rewarded, sampled, told
from leyden.testing.server_process import ServerProcess
from leyden.types import Rollout

NAMES = [f"r{number:03}" for number in range(200)]


@pytest.fixture(scope="module")
def servers(postgres: PostgresServer) -> Iterator[list[ServerProcess]]:
    database = postgres.database()
    with ServerProcess(database) as one, ServerProcess(database) as two:
        yield [one, two]


@pytest.fixture
async def stores(servers: list[ServerProcess]) -> AsyncIterator[list[HttpStore]]:
    stores = [HttpStore(server.url, ServerProcess.KEY) for server in servers for _ in range(4)]
    yield stores
    for store in stores:
        await store.close()


async def test_runners_at_two_servers_share_the_work_and_lose_none_of_it(stores: list[HttpStore]) -> None:
    claimed: Counter[str] = Counter()

    async def work(mine: HttpStore, others: HttpStore, runner: str) -> None:
        while claims := await mine.claim(runner, limit=3, lease_s=600, wait_s=0.2):
            for claim in claims:
                name = claim.rollout.id
                claimed[name] += 1
                prompt = tuple(range(600 + len(claimed) // 8))
                await asyncio.gather(
                    mine.record([sampled(name, name, prompt_token_ids=prompt)]), others.record([told(name, name)])
                )
                outcome = ended(name, runner=runner, rewards=(rewarded(name),), call_ids=(name,))
                assert (await others.finish(outcome)).status == "succeeded"

    await stores[0].queue([Rollout(id=name, mode="train") for name in NAMES])
    pairs = zip(stores, reversed(stores), strict=True)
    await asyncio.gather(*(work(mine, other, f"runner {n}") for n, (mine, other) in enumerate(pairs)))
    assert claimed == Counter(NAMES)
    calls = await stores[0].calls(NAMES)
    assert [(call.id, call.captured_by) for call in calls] == [(name, ("adapter", "gateway")) for name in NAMES]
    assert all(call.attempts[0].choices == sampled(call.id, call.id).attempts[0].choices for call in calls)
    assert Counter(reward.rollout_id for reward in await stores[1].rewards(NAMES)) == Counter(NAMES)


async def test_a_cursor_at_one_server_misses_nothing_that_is_queued_at_both(stores: list[HttpStore]) -> None:
    seen: list[str] = []
    names = [f"queued {number}" for number in range(200)]
    before = (await stores[0].rollouts(limit=1000)).cursor

    async def follow(queueing: "asyncio.Future[list[None]]") -> None:
        cursor, done = before, False
        while not done:
            done = queueing.done()
            page = await stores[0].rollouts(after=cursor, limit=1000)
            seen.extend(rollout.id for rollout in page.rollouts)
            cursor = page.cursor

    async def queue(store: HttpStore, some: list[str]) -> None:
        for name in some:
            await store.queue([Rollout(id=name)])

    queues = [queue(store, names[number :: len(stores) - 2]) for number, store in enumerate(stores[2:])]
    await follow(asyncio.gather(*queues))
    assert Counter(seen) == Counter(names)
