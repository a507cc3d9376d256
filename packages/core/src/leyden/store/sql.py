"""The store on a SQL database: SQLite in WAL mode. Writes go through one thread, reads through others."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.exc import SQLAlchemyError

from leyden.errors import BadConfig, NotFound, Unreachable
from leyden.store import lifecycle, records
from leyden.store.changes import Changes
from leyden.store.completeness import check
from leyden.store.migrations import migrate
from leyden.store.schema import calls, credits, endpoints, rollouts
from leyden.store.writer import Writer
from leyden.types import Call, Claim, Credit, Endpoint, Mode, Outcome, Page, Reward, Rollout, RolloutStatus

__all__ = ["SqlStore"]

T = TypeVar("T")
_MOST_ROWS = 1000  # of one page


class SqlStore:
    """Implements `leyden.store.protocol.Store`; see there for what each verb promises."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changes = Changes()
        self._writer = Writer(_writing(engine), tick=lifecycle.expire, changed=self._changes.notify)

    @classmethod
    def open(cls, place: str | Path) -> Self:
        """Open a database file (made if there is none) or an SQLAlchemy URL, and bring its tables up to date.

        Raises:
            BadConfig: it is not a Leyden store, it was written by a newer Leyden, or it cannot be opened.
        """
        url = str(place) if "://" in str(place) else f"sqlite:///{Path(place).absolute()}"
        engine = create_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin)
        try:
            migrate(_writing(engine), url)
        except SQLAlchemyError as error:
            raise BadConfig(f"cannot open the store {place}: {getattr(error, 'orig', None) or error}") from error
        return cls(engine)

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(operation))

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._read_now, operation)

    def _read_now(self, operation: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return operation(connection)
        except SQLAlchemyError as error:
            raise Unreachable(f"the store could not read: {getattr(error, 'orig', None) or error}") from error

    async def queue(self, rollouts: Sequence[Rollout]) -> None:
        """See `Store.queue`."""
        await self._write(lambda connection: lifecycle.queue(connection, rollouts))

    async def claim(self, runner: str, *, limit: int, lease_s: float, wait_s: float = 0.0) -> list[Claim]:
        """See `Store.claim`."""

        def take(connection: Connection) -> list[Rollout]:
            taken = lifecycle.claim(connection, runner, limit, lease_s)
            for rollout in taken:
                assert rollout.lease_until is not None
                self._writer.tick_by(rollout.lease_until)
            return taken

        async def look() -> list[Rollout]:
            # Reading first keeps idle runners off the writer.
            return await self._write(take) if await self._read(_anything_queued) else []

        return [Claim(rollout=rollout) for rollout in await self._changes.until(look, timeout_s=wait_s)]

    async def heartbeat(self, runner: str, held: Sequence[tuple[str, int]], *, lease_s: float) -> list[str]:
        """See `Store.heartbeat`."""
        return await self._write(lambda connection: lifecycle.heartbeat(connection, runner, held, lease_s))

    async def release(self, runner: str, held: Sequence[tuple[str, int]]) -> None:
        """See `Store.release`."""
        await self._write(lambda connection: lifecycle.release(connection, runner, held))

    async def record(self, calls: Sequence[Call]) -> None:
        """See `Store.record`."""
        for call in calls:
            check(call)
        await self._write(lambda connection: records.record(connection, calls))

    async def reward(self, rewards: Sequence[Reward]) -> None:
        """See `Store.reward`."""
        await self._write(lambda connection: records.add_rewards(connection, rewards))

    async def finish(self, outcome: Outcome) -> Rollout:
        """See `Store.finish`."""
        named = set(outcome.call_ids or ())

        async def all_recorded() -> bool:
            return named <= await self._read(lambda connection: _terminal(connection, outcome.rollout_id))

        if named and outcome.status != "lost":
            await self._changes.until(all_recorded, timeout_s=outcome.wait_s)

        def end(connection: Connection) -> None:
            records.add_rewards(connection, outcome.rewards)
            lifecycle.finish(connection, outcome)

        await self._write(end)
        return await self.rollout(outcome.rollout_id)

    async def wait(self, rollout_ids: Sequence[str], *, timeout_s: float) -> list[Rollout]:
        """See `Store.wait`."""
        ended = rollouts.c.status.in_(("succeeded", "failed", "incomplete"))

        def look(connection: Connection) -> list[Rollout]:
            rows = [
                row
                for start in range(0, len(rollout_ids), 500)
                for row in connection.execute(
                    select(rollouts).where(rollouts.c.id.in_(rollout_ids[start : start + 500]), ended)
                )
            ]
            return [lifecycle.to_rollout(row) for row in rows]

        return await self._changes.until(lambda: self._read(look), timeout_s=timeout_s)

    async def rollout(self, rollout_id: str) -> Rollout:
        """See `Store.rollout`."""

        def look(connection: Connection) -> Rollout:
            row = connection.execute(select(rollouts).where(rollouts.c.id == rollout_id)).one_or_none()
            if row is None:
                raise NotFound(f"no rollout has the id {rollout_id!r}")
            return lifecycle.to_rollout(row)

        return await self._read(look)

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

    async def endpoints(self) -> list[Endpoint]:
        """See `Store.endpoints`."""
        query = select(endpoints.c.body).order_by(endpoints.c.published_at.desc())
        bodies = await self._read(lambda connection: connection.execute(query).scalars().all())
        return [Endpoint.model_validate_json(body) for body in bodies]

    async def credit(self, credits: Sequence[Credit]) -> None:
        """See `Store.credit`."""
        await self._write(lambda connection: records.put_credits(connection, credits))

    async def credits(self, rollout_ids: Sequence[str]) -> list[Credit]:
        """See `Store.credits`."""
        query = select(credits.c.body).where(credits.c.rollout_id.in_(rollout_ids)).order_by(credits.c.step)
        bodies = await self._read(lambda connection: connection.execute(query).scalars().all())
        return [Credit.model_validate_json(body) for body in bodies]

    async def close(self) -> None:
        """See `Store.close`."""
        await asyncio.to_thread(self._writer.close)
        self._engine.dispose()


def _anything_queued(connection: Connection) -> bool:
    return connection.execute(select(rollouts.c.seq).where(rollouts.c.status == "queued").limit(1)).first() is not None


def _terminal(connection: Connection, rollout_id: str) -> set[str]:
    query = select(calls.c.id).where(calls.c.rollout_id == rollout_id, calls.c.status.is_not(None))
    return set(connection.execute(query).scalars())


def _writing(engine: Engine) -> Engine:
    """The same engine, whose transactions take SQLite's write lock at their start rather than fail in their middle."""
    return engine.execution_options(leyden_writing=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("leyden_writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
