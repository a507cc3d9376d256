"""Servers and databases are killed at random moments, behind a bad network, while clients work.

Whatever was acknowledged is there in the end, once; every rollout ends; and blocks are counted exactly.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import select

from leyden.client import HttpStore
from leyden.errors import Conflict, LeaseLost, Unreachable
from leyden.merge import merge
from leyden.store import SqlStore
from leyden.store.call_rows import heads
from leyden.store.engine import open_engine
from leyden.store.schema import blocks, calls
from leyden.testing.faulty_wire import FaultyWire
from leyden.testing.postgres_server import PostgresServer
from leyden.testing.records import rewarded, sampled, told
from leyden.testing.server_process import ServerProcess
from leyden.types import Call, Claim, Outcome, Rollout

LEASE_S = 3.0
CLAIMERS = 6
UNFINISHED = 12  # rollouts that are queued or run at a time


class Ledger:
    """What clients were told, and in the end: whether it was true."""

    def __init__(self) -> None:
        self.claimed: Counter[tuple[str, int]] = Counter()
        self.records: list[Call] = []
        self.finished: dict[str, Rollout] = {}
        self.queued: list[str] = []
        self._acknowledged = 0
        self._told = asyncio.Condition()

    async def acknowledge(self) -> None:
        self._acknowledged += 1
        async with self._told:
            self._told.notify_all()

    async def after(self, more: int) -> None:
        """Returns when so much more was acknowledged."""
        wanted = self._acknowledged + more
        async with self._told:
            await self._told.wait_for(lambda: self._acknowledged >= wanted)


async def work(store: HttpStore, ledger: Ledger, rng: random.Random, name: str) -> None:
    """A runner, as the server sees one; now and then it forgets what it claimed."""
    while True:
        try:
            claims = await store.claim(name, limit=2, lease_s=LEASE_S, wait_s=1.0)
            for claim in claims:
                ledger.claimed[claim.rollout.id, claim.rollout.attempt] += 1
            for claim in claims:
                if rng.random() < 0.95:
                    await run(store, ledger, name, claim)
        except (Unreachable, LeaseLost, Conflict):  # what is held comes back when its lease runs out
            continue


async def run(store: HttpStore, ledger: Ledger, name: str, claim: Claim) -> None:
    rollout_id, attempt = claim.rollout.id, claim.rollout.attempt
    made: list[str] = []
    for turn in range(2):
        call_id = f"{rollout_id} {attempt} {turn}"
        prompt = tuple(range(600 * (turn + 1)))
        for call in (sampled(rollout_id, call_id, prompt_token_ids=prompt), told(rollout_id, call_id)):
            record = call.model_copy(update={"attempt": attempt})
            await store.record([record])
            ledger.records.append(record)
            await ledger.acknowledge()
        made.append(call_id)
    reward = rewarded(rollout_id, attempt=attempt, id=f"{rollout_id} {attempt}")
    outcome = Outcome(
        rollout_id=rollout_id,
        attempt=attempt,
        runner=name,
        status="succeeded",
        rewards=(reward,),
        call_ids=tuple(made),
        wait_s=0.0,
    )
    ended = await store.finish(outcome)
    assert rollout_id not in ledger.finished
    ledger.finished[rollout_id] = ended
    await ledger.acknowledge()


async def again(verb: Callable[[], Awaitable[list[Rollout] | None]]) -> list[Rollout]:
    """A verb that is safe to repeat, until it is answered."""
    while True:
        try:
            return await verb() or []
        except Unreachable:
            continue


async def ask_for_work(store: HttpStore, ledger: Ledger, enough: asyncio.Event) -> None:
    """A trainer, as the server sees one: keeps rollouts coming until it is enough, and waits for all of them."""
    left: set[str] = set()

    async def wait() -> list[Rollout]:
        return await store.wait(sorted(left), timeout_s=2.0)

    while left or not enough.is_set():
        if not enough.is_set() and len(left) < UNFINISHED:
            names = [f"r{number}" for number in range(len(ledger.queued), len(ledger.queued) + UNFINISHED)]
            # Made once: with groups of their own they would be others when they are asked for again.
            new = [Rollout(id=name, mode="train", max_attempts=1000) for name in names]
            await again(lambda new=new: store.queue(new))
            ledger.queued += names
            left |= set(names)
        left -= {rollout.id for rollout in await again(wait)}


async def kill_and_start(victim: ServerProcess | PostgresServer) -> None:
    await asyncio.to_thread(victim.kill if isinstance(victim, ServerProcess) else victim.crash)
    await asyncio.to_thread(victim.start)


async def storm(
    servers: list[ServerProcess], database: PostgresServer | None, kills: Iterable[int], survived: Counter[str]
) -> Ledger:
    rng, ledger, enough = random.Random(0), Ledger(), asyncio.Event()
    wire = FaultyWire([server.port for server in servers], rng)
    async with wire.listening() as url, asyncio.TaskGroup() as group:
        stores = [HttpStore(url, ServerProcess.KEY, timeout_s=1.0) for _ in range(CLAIMERS + 1)]
        workers = [
            group.create_task(work(store, ledger, rng, f"runner {number}")) for number, store in enumerate(stores[1:])
        ]
        asking = group.create_task(ask_for_work(stores[0], ledger, enough))
        for number in kills:
            await ledger.after(rng.randrange(5, 60))
            falls = database if database is not None and number % 2 else rng.choice(servers)
            await kill_and_start(falls)
            survived["database crashes" if falls is database else "server kills"] += 1
        enough.set()
        await asking
        for worker in workers:
            worker.cancel()
    survived.update({f"requests {what}": n for what, n in wire.counts.items() if what != "passed"})
    for store in stores:
        await store.close()
    return ledger


async def check(place: str, ledger: Ledger, survived: Counter[str]) -> None:
    store = SqlStore.open(place)
    stored = {rollout.id: rollout for rollout in [await store.rollout(name) for name in ledger.queued]}
    known = await all_calls(place)
    rewards = Counter(reward.id for reward in await store.rewards(ledger.queued))
    await store.close()
    lost = [part.id for part in ledger.records if part.id not in known or merge(known[part.id], part) != known[part.id]]
    lost += [name for name, ended in ledger.finished.items() if stored[name] != ended]
    lost += [name for name, rollout in stored.items() if rewards[f"{name} {rollout.attempt}"] == 0]
    twice = [pair for pair, count in ledger.claimed.items() if count > 1]
    twice += [name for name, count in rewards.items() if count > 1]
    stuck = [name for name, rollout in stored.items() if rollout.status != "succeeded"]
    survived.update(lost=len(lost), twice=len(twice), stuck=len(stuck))
    assert (lost, twice, stuck) == ([], [], [])


async def all_calls(place: str) -> dict[str, Call]:
    """Every call of every attempt; and how often each block is pointed at is what is counted."""
    engine = open_engine(place)
    with engine.connect() as connection:
        records = connection.execute(select(calls.c.record)).scalars().all()
        kept = connection.execute(select(blocks.c.hash, blocks.c.parent, blocks.c.refs)).all()
        ids = connection.execute(select(calls.c.id)).scalars().all()
    engine.dispose()
    pointed = Counter(heads(records)) + Counter(row.parent for row in kept if row.parent is not None)
    assert {row.hash: row.refs for row in kept} == dict(pointed)
    store = SqlStore.open(place)
    known = {name: await store.call(name) for name in ids}
    await store.close()
    return known


async def test_a_server_on_sqlite_is_killed_and_started_again(
    tmp_path: Path, kills: Iterable[int], survived: Counter[str]
) -> None:
    place = str(tmp_path / "store.sqlite")
    with ServerProcess(place) as server:
        ledger = await storm([server], None, kills, survived)
    await check(place, ledger, survived)


async def test_two_servers_on_one_postgres_and_the_database_are_killed_and_started_again(
    postgres: PostgresServer, database: str, kills: Iterable[int], survived: Counter[str]
) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(database)) for _ in range(2)]
        ledger = await storm(servers, postgres, kills, survived)
    await check(database, ledger, survived)
