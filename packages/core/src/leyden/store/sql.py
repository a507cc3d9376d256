"""The store on SQL: SQLite in WAL mode, or PostgreSQL. Writes go through one thread, reads through others.

Several servers may share a PostgreSQL database: they take turns at writing, and tell each other what they changed.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from sqlalchemy import Connection, Engine, and_, bindparam, delete, select
from sqlalchemy.exc import DataError, SQLAlchemyError

from leyden.errors import BadInput, Conflict, Unreachable
from leyden.merge import merge
from leyden.store import blocks, lifecycle, records
from leyden.store import runs as run_records
from leyden.store.call_rows import heads
from leyden.store.census import Census, census, schema_revision
from leyden.store.changes import ENDPOINTS, QUEUE, Changes, calls_of, end_of
from leyden.store.completeness import check
from leyden.store.engine import open_engine, reading, writing
from leyden.store.episodes import Episode, add_episodes
from leyden.store.schema import calls, credits, endpoints, labels, rewards, rollouts
from leyden.store.settling import Settling
from leyden.store.statements import all_rows, rows_with, run
from leyden.store.writer import Writer
from leyden.types import Call, Claim, Credit, Endpoint, Mode, Outcome, Page, Reward, Rollout, RolloutStatus, Run, Step

if TYPE_CHECKING:
    from leyden.store.announcements import Announcements, Heard

__all__ = ["SqlStore"]

T = TypeVar("T")
_MOST_ROWS = 1000  # of one page
_MANY = 500  # bound parameters of one statement
_QUEUED = select(rollouts.c.seq).where(rollouts.c.status == "queued").limit(1)
_SILENT = (
    select(rollouts.c.seq).where(rollouts.c.status == "running", rollouts.c.lease_until <= bindparam("now")).limit(1)
)
_ENDED = and_(rollouts.c.status != "queued", rollouts.c.status != "running")


class SqlStore:
    """Implements `leyden.store.protocol.Store`; see there for what each verb promises."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._in_file = engine.dialect.name == "sqlite"
        self._published = object()
        """Another object since each publication."""
        self._known_endpoints: tuple[object, list[Endpoint]] | None = None
        """As they were read last, and `_published` then; a file has one server, so nobody else publishes in it."""
        self._changes = Changes()
        self._settling = Settling()
        self._writer = Writer(writing(engine), tick=lifecycle.expire, changed=self._changed, announce=self._announce)
        self._announcements = _announcements(engine, self._heard)
        self._writer.start()

    def _changed(self, touched: Collection[str]) -> None:
        if ENDPOINTS in touched:
            self._published = object()
        self._settling.tell()
        self._changes.notify(touched)

    def _announce(self, connection: Connection, touched: Collection[str], next_tick: float | None) -> None:
        if self._announcements is not None:
            self._announcements.tell(connection, touched, next_tick)

    def _heard(self, topics: Collection[str] | None, next_tick: float | None) -> None:
        """Another server changed these topics (None: it may be any)."""
        if next_tick is not None:
            self._writer.remind(next_tick)
        self._changes.notify(topics)

    @classmethod
    def open(cls, place: str | Path) -> Self:
        """Open a database file (made if there is none) or an SQLAlchemy URL, and bring its tables up to date.

        Raises:
            BadConfig: it is not a Leyden store, it was written by a newer Leyden, or it cannot be opened.
        """
        return cls(open_engine(place))

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        return await self._settling.result(self._writer.submit(operation))

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._read_now, operation)

    async def _glance(self, operation: Callable[[Connection], T]) -> T:
        """As `_read`, for single statements of `store.statements` that find a few rows by key: in SQLite sooner than a
        thread is woken, and without a transaction."""
        return _looked(self._engine, operation) if self._in_file else await self._read(operation)

    def _read_now(self, operation: Callable[[Connection], T]) -> T:
        return _looked(self._reading, lambda connection: _in_transaction(connection, operation))

    async def queue(self, rollouts: Sequence[Rollout]) -> None:
        """See `Store.queue`."""
        await self._write(lambda connection: lifecycle.queue(connection, rollouts))

    async def claim(self, runner: str, *, limit: int, lease_s: float, wait_s: float = 0.0) -> list[Claim]:
        """See `Store.claim`."""
        _check_lease(lease_s)

        def take(connection: Connection) -> list[Rollout]:
            taken = lifecycle.claim(connection, runner, limit, lease_s)
            for rollout in taken:
                assert rollout.lease_until is not None
                self._writer.tick_by(rollout.lease_until)
            return taken

        async def look() -> list[Rollout]:
            # Reading first keeps idle runners off the writer.
            if not await self._glance(_anything_to_claim):
                return []
            taking = self._writer.submit(take)
            try:
                return await asyncio.wrap_future(taking)
            except asyncio.CancelledError:
                taking.add_done_callback(lambda done: self._give_back(runner, done))
                raise

        taken = await self._changes.until(look, topics=(QUEUE,), timeout_s=wait_s)
        return [Claim(rollout=rollout) for rollout in taken]

    def _give_back(self, runner: str, taking: "Future[list[Rollout]]") -> None:
        """Release what was claimed for somebody who gave up waiting while it was being written."""
        if taking.cancelled() or taking.exception() is not None:
            return
        held = [(rollout.id, rollout.attempt) for rollout in taking.result()]
        with contextlib.suppress(Unreachable):  # the store was closed: the leases will run out
            self._writer.submit(lambda connection: lifecycle.release(connection, runner, held))

    async def heartbeat(self, runner: str, held: Sequence[tuple[str, int]], *, lease_s: float) -> list[str]:
        """See `Store.heartbeat`."""
        _check_lease(lease_s)

        def renew(connection: Connection) -> list[str]:
            self._writer.tick_by(time.time() + lease_s)
            return lifecycle.heartbeat(connection, runner, held, lease_s)

        return await self._write(renew)

    async def expire(self) -> float | None:
        """Act on leases that ran out, as the store does by itself; the UNIX time when the next will, None for none."""
        return await self._write(lifecycle.expire)

    async def release(self, runner: str, held: Sequence[tuple[str, int]]) -> None:
        """See `Store.release`."""
        await self._write(lambda connection: lifecycle.release(connection, runner, held))

    async def record(self, calls: Sequence[Call]) -> None:
        """See `Store.record`."""
        for call in calls:
            check(call)
        sorted_calls = [_in_order(call) for call in calls]
        await self._settling.result(self._writer.submit_together(records.record_all, sorted_calls))

    async def reward(self, rewards: Sequence[Reward]) -> None:
        """See `Store.reward`."""
        await self._write(lambda connection: records.add_rewards(connection, rewards))

    async def finish(self, outcome: Outcome) -> Rollout:
        """See `Store.finish`."""
        for reward in outcome.rewards:
            if reward.rollout_id != outcome.rollout_id:
                raise BadInput(f"the outcome of {outcome.rollout_id} has reward {reward.id} for {reward.rollout_id}")
        named = set(outcome.call_ids or ())

        async def all_recorded() -> bool:
            return named <= await self._read(lambda connection: _terminal(connection, outcome.rollout_id))

        if named and outcome.status != "lost":
            now = await self.rollout(outcome.rollout_id)
            if now.status == "running" and (now.runner, now.attempt) == (outcome.runner, outcome.attempt):
                topics = (calls_of(outcome.rollout_id),)
                await self._changes.until(all_recorded, topics=topics, timeout_s=outcome.wait_s)

        def end(connection: Connection) -> Rollout:
            row = lifecycle.row_of(connection, outcome.rollout_id)
            records.add_rewards(connection, outcome.rewards)
            return lifecycle.finish(connection, row, outcome)

        return await self._write(end)

    async def wait(self, rollout_ids: Sequence[str], *, timeout_s: float) -> list[Rollout]:
        """See `Store.wait`."""

        def look(connection: Connection) -> list[Rollout]:
            rows = rows_with(connection, tuple(rollouts.c), rollouts.c.id, rollout_ids, _ENDED)
            return [lifecycle.to_rollout(row) for row in rows]

        see = self._glance if len(rollout_ids) == 1 else self._read
        topics = [end_of(rollout_id) for rollout_id in rollout_ids]
        return await self._changes.until(lambda: see(look), topics=topics, timeout_s=timeout_s)

    async def rollout(self, rollout_id: str) -> Rollout:
        """See `Store.rollout`."""

        def look(connection: Connection) -> Rollout:
            return lifecycle.to_rollout(lifecycle.row_of(connection, rollout_id))

        return await self._glance(look)

    async def rollouts(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        run: str | None = None,
        group_id: str | None = None,
        mode: Mode | None = None,
        status: RolloutStatus | None = None,
    ) -> Page:
        """See `Store.rollouts`."""
        limit = min(limit, _MOST_ROWS)
        wanted = {"run": run, "group_id": group_id, "mode": mode, "status": status}
        query = select(rollouts).where(rollouts.c.seq > after).order_by(rollouts.c.seq).limit(limit + 1)
        for name, value in wanted.items():
            if value is not None:
                query = query.where(rollouts.c[name] == value)

        def look(connection: Connection) -> Page:
            rows = connection.execute(query).all()
            shown = rows[:limit]
            cursor = shown[-1].seq if shown else after
            return Page(rollouts=tuple(map(lifecycle.to_rollout, shown)), cursor=cursor, more=len(rows) > limit)

        return await self._read(look)

    async def calls(self, rollout_ids: Sequence[str]) -> list[Call]:
        """See `Store.calls`."""
        return await self._read(lambda connection: records.read_calls(connection, rollout_ids))

    async def call(self, call_id: str) -> Call:
        """See `Store.call`."""
        return await self._read(lambda connection: records.read_call(connection, call_id))

    async def rewards(self, rollout_ids: Sequence[str]) -> list[Reward]:
        """See `Store.rewards`."""
        return await self._read(lambda connection: records.read_rewards(connection, rollout_ids))

    async def publish(self, endpoint: Endpoint) -> None:
        """See `Store.publish`."""
        await self._write(lambda connection: records.put_endpoint(connection, endpoint))
        self._published = object()  # as we may hear of our commit before `_changed` does

    async def endpoints(self) -> list[Endpoint]:
        """See `Store.endpoints`."""
        published, known = self._published, self._known_endpoints
        if known is not None and known[0] is published:
            return list(known[1])
        rows = await self._glance(lambda connection: all_rows(connection, endpoints))
        found = [Endpoint.model_validate_json(row.body) for row in rows]
        found.sort(key=lambda endpoint: endpoint.published_at, reverse=True)
        if self._in_file:
            self._known_endpoints = (published, found)
        return list(found)

    async def credit(self, credits: Sequence[Credit]) -> None:
        """See `Store.credit`."""
        await self._write(lambda connection: records.put_credits(connection, credits))

    async def credits(self, rollout_ids: Sequence[str]) -> list[Credit]:
        """See `Store.credits`."""

        def look(connection: Connection) -> list[str]:
            return [
                body
                for some in _batches(rollout_ids)
                for body in connection.execute(
                    select(credits.c.body).where(credits.c.rollout_id.in_(some)).order_by(credits.c.step)
                ).scalars()
            ]

        return [Credit.model_validate_json(body) for body in await self._read(look)]

    async def begin(self, run: Run, *, after_step: int = 0) -> None:
        """See `Store.begin`."""
        await self._write(lambda connection: run_records.begin(connection, run, after_step))

    async def note(self, steps: Sequence[Step]) -> None:
        """See `Store.note`."""
        await self._write(lambda connection: run_records.note(connection, steps))

    async def runs(self) -> list[Run]:
        """See `Store.runs`."""
        return await self._read(run_records.read_runs)

    async def steps(self, run: str) -> list[Step]:
        """See `Store.steps`."""
        return await self._read(lambda connection: run_records.read_steps(connection, run))

    async def look(self, query: Callable[[Connection], T]) -> T:
        """What `query` reads in one transaction, in a thread: for pages that ask what no verb answers."""
        return await self._read(query)

    async def census(self) -> Census:
        """How many rollouts wait and run, and why rollouts were incomplete."""
        return await self._read(census)

    async def schema(self) -> str | None:
        """The revision of the tables, read where writes go: who asks learns too whether these are still done."""
        return await self._write(schema_revision)

    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> None:
        """Delete finished rollouts with all that belongs to them, and free the blocks that nothing else uses.

        Ids that are not there are passed over, so that the same deletion can be repeated.

        Raises:
            Conflict: one of them has not finished; nothing is deleted.
        """
        await self._write(lambda connection: _delete(connection, rollout_ids))

    async def add_episodes(self, new: Sequence[Episode]) -> int:
        """Insert finished rollouts of another store with all that belongs to them, all or none; returns how many were
        not there yet.

        Raises:
            BadInput: one has not finished, or has a part of another rollout.
            Conflict: one is there with other content.
        """
        for call in (call for episode in new for call in episode.calls):
            check(call)
        return await self._write(lambda connection: add_episodes(connection, new))

    async def close(self) -> None:
        """See `Store.close`."""
        await asyncio.to_thread(self._writer.close)
        if self._announcements is not None:
            await asyncio.to_thread(self._announcements.close)
        self._engine.dispose()


def _looked(engine: Engine, operation: Callable[[Connection], T]) -> T:
    try:
        with engine.connect() as connection:
            return operation(connection)
    except DataError as error:
        raise BadInput(f"the database refused a value: {error.orig}; no record has it") from error
    except SQLAlchemyError as error:
        raise Unreachable(f"the store could not read: {getattr(error, 'orig', None) or error}") from error


def _in_transaction(connection: Connection, operation: Callable[[Connection], T]) -> T:
    with connection.begin():
        return operation(connection)


def _announcements(engine: Engine, heard: "Heard") -> "Announcements | None":
    """What other servers on the database are told, and tell; a file has one server."""
    if engine.dialect.name != "postgresql":
        return None
    from leyden.store import announcements  # its driver is there only where it was asked for

    return announcements.Announcements(engine, heard)


def _check_lease(lease_s: float) -> None:
    if not 0 < lease_s < math.inf:
        raise BadInput(f"a lease must last a finite number of seconds above 0, got {lease_s}")


def _in_order(call: Call) -> Call:
    """The call with its parts in their order, so that a repeat is equal in whatever order they come."""
    several = any(len(parts) > 1 for parts in (call.attempts, call.tools, call.captured_by))
    return merge(call, call) if several else call


def _anything_to_claim(connection: Connection) -> bool:
    now = {"now": time.time()}
    return any(run(connection, query, now) for query in (_QUEUED, _SILENT))


def _terminal(connection: Connection, rollout_id: str) -> set[str]:
    query = select(calls.c.id).where(calls.c.rollout_id == rollout_id, calls.c.status.is_not(None))
    return set(connection.execute(query).scalars())


def _delete(connection: Connection, rollout_ids: Sequence[str]) -> None:
    for some in _batches(rollout_ids):
        going_on = select(rollouts.c.id).where(rollouts.c.id.in_(some), rollouts.c.status.in_(("queued", "running")))
        left = connection.execute(going_on.limit(1)).scalar_one_or_none()
        if left is not None:
            raise Conflict(
                f"rollout {left} has not finished, so it cannot be deleted; wait for it, nothing was deleted"
            )
        stored = connection.execute(select(calls.c.record).where(calls.c.rollout_id.in_(some))).scalars()
        blocks.release(connection, heads(stored))
        for table in (calls, rewards, credits):
            connection.execute(delete(table).where(table.c.rollout_id.in_(some)))
        gone = select(rollouts.c.seq).where(rollouts.c.id.in_(some))
        connection.execute(delete(labels).where(labels.c.seq.in_(gone)))
        connection.execute(delete(rollouts).where(rollouts.c.id.in_(some)))


def _batches(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _MANY] for start in range(0, len(ids), _MANY)]
