"""One thread writes for everybody: what happens to those who give up, fail, come late, or are killed."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leyden.errors import BadInput, Conflict, NotFound, Unreachable
from leyden.store import SqlStore
from leyden.store.engine import open_engine
from leyden.store.writer import Writer
from leyden.testing.store_contract import sampled
from leyden.types import Claim, Request, Rollout

WRITE_FOREVER = """
import asyncio, sys
from leyden.store import SqlStore
from leyden.testing.records import sampled
from leyden.types import Rollout

async def write(store, writer):
    for number in range(100_000):
        name = f"{writer}-{number}"
        await store.record([sampled("one", name)])
        print(name, flush=True)

async def main():
    store = SqlStore.open(sys.argv[1])
    await store.queue([Rollout(id="one")])
    await asyncio.gather(*(write(store, writer) for writer in range(8)))

asyncio.run(main())
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(tmp_path / "store.sqlite")
    yield store
    await store.close()


async def test_a_caller_that_gives_up_does_not_stop_the_others(store: SqlStore) -> None:
    tasks = [asyncio.create_task(store.queue([Rollout(id=f"{number}")])) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end for end in ends[1::2] if end is not None] == []
    await store.queue([Rollout(id="after")])
    stored = {rollout.id for rollout in (await store.rollouts()).rollouts}
    assert {"after", *(f"{number}" for number in range(1, 50, 2))} <= stored


async def test_an_operation_that_the_database_refuses_leaves_those_beside_it_alone(store: SqlStore) -> None:
    broken = Rollout(id="broken", task="half of a pair: \ud83d")
    ends = await asyncio.gather(
        store.queue([Rollout(id="before")]),
        store.queue([Rollout(id="part of it"), broken]),
        store.queue([Rollout(id="after")]),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [type(None), BadInput, type(None)]
    assert {rollout.id for rollout in (await store.rollouts()).rollouts} == {"before", "after"}


async def test_a_lease_may_last_longer_than_any_timer(store: SqlStore) -> None:
    await store.queue([Rollout(id="one")])
    await store.claim("ann", limit=1, lease_s=1e15)
    await store.queue([Rollout(id="two")])
    assert (await store.rollout("one")).status == "running"


@pytest.mark.parametrize("lease_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_lease_that_is_no_time_is_refused(store: SqlStore, lease_s: float) -> None:
    await store.queue([Rollout(id="one")])
    with pytest.raises(BadInput, match="lease"):
        await store.claim("ann", limit=1, lease_s=lease_s)
    with pytest.raises(BadInput, match="lease"):
        await store.heartbeat("ann", [], lease_s=lease_s)


async def test_a_closed_store_refuses_to_write_rather_than_hang(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    written = [asyncio.create_task(store.queue([Rollout(id=f"{number}")])) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*written)
    with pytest.raises(Unreachable, match="closed"):
        await store.queue([Rollout(id="late")])
    await store.close()
    again = SqlStore.open(tmp_path / "store.sqlite")
    assert len((await again.rollouts()).rollouts) == 20
    await again.close()


async def test_threads_with_loops_of_their_own_share_a_store(store: SqlStore) -> None:
    claims: list[Claim] = []

    def claim_one() -> None:
        claims.extend(asyncio.run(store.claim("ann", limit=1, lease_s=600, wait_s=60)))

    threads = [threading.Thread(target=claim_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    await store.queue([Rollout(id=f"{number}") for number in range(4)])
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(claim.rollout.id for claim in claims) == ["0", "1", "2", "3"]


def acknowledged_until_killed(place: Path) -> list[str]:
    command = [sys.executable, "-c", WRITE_FOREVER, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = [child.stdout.readline().strip() for _ in range(200)]
        child.kill()
        return first + child.stdout.read().split("\n")[:-1]  # a line without its end may be half a name


async def test_what_was_acknowledged_survives_a_kill_under_load(tmp_path: Path) -> None:
    acknowledged = acknowledged_until_killed(tmp_path / "store.sqlite")
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.claim("ann", limit=1, lease_s=600)
    stored = {call.id for call in await store.calls(["one"])}
    assert len(acknowledged) >= 200
    assert "" not in acknowledged
    assert set(acknowledged) <= stored
    await store.close()


async def test_calls_that_come_at_once_are_stored_but_for_those_that_are_refused(store: SqlStore) -> None:
    """The batch of their commit fails as a whole first; then each is tried by itself."""
    await store.queue([Rollout(id="one")])
    await store.claim("me", limit=1, lease_s=600)
    known = sampled("one", "known")
    await store.record([known])
    other = known.model_copy(update={"request": Request(messages=({"role": "user", "content": "other"},))})
    asked = [
        *(store.record([sampled("one", f"new-{number}")]) for number in range(20)),
        store.record([other]),
        store.record([sampled("nobody", "lost")]),
        *(store.record([sampled("one", "twice")]) for _ in range(2)),
        store.record([known]),
    ]
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [Conflict, NotFound]
    stored = {call.id for call in await store.calls(["one"])}
    assert stored == {"known", "twice", *(f"new-{number}" for number in range(20))}


async def test_a_store_that_opens_on_a_lease_that_ran_out_gives_its_rollout_to_the_next(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="one")])
    await store.claim("ann", limit=1, lease_s=0.001)
    await store.close()
    store = SqlStore.open(tmp_path / "store.sqlite")
    (claim,) = await store.claim("bob", limit=1, lease_s=600, wait_s=60)
    assert (claim.rollout.id, claim.rollout.attempt) == ("one", 2)
    await store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_writer_that_an_error_has_ended(tmp_path: Path) -> None:
    waits, told = threading.Event(), list[object]()

    def changed(topics: object) -> None:
        told.append(topics)
        if len(told) == 1:
            waits.wait()
            raise LookupError("an error of ours")

    writer = Writer(open_engine(tmp_path / "s.sqlite"), tick=lambda _: None, changed=changed, announce=lambda *_: None)
    before = writer.submit(lambda connection: connection.dialect.name)
    writer.start()
    assert before.result() == "sqlite"
    meanwhile = writer.submit(lambda connection: None)
    waits.set()
    with pytest.raises(Unreachable, match="lost its writer to an error that the log shows: restart the server"):
        meanwhile.result()
    with pytest.raises(Unreachable, match="lost its writer"):
        writer.submit(lambda connection: None)
    assert len(told) == 2  # who awaits the futures is woken too
    writer.close()
