"""What the pages ask of the database beyond the store's verbs; each stays quick with a million rollouts."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, exists, func, literal_column, select

from leyden.store.facets import LONGEST
from leyden.store.lifecycle import to_rollout
from leyden.store.schema import endpoints, labels, rollouts, steps
from leyden.types import Rollout

__all__ = [
    "Filter",
    "Listed",
    "Runner",
    "group_members",
    "known_labels",
    "known_runs",
    "list_rollouts",
    "pulse",
    "queue_state",
]

PAGE = 50
_MOST_NAMES = 200
_FEW = 20_000
"""Rollouts with a label that are read as a list rather than asked for one by one."""
_DEEPEST = 10_000_000
"""Rollouts among which those that ended lately are counted; a limit keeps SQLite from reading all by status."""


@dataclass(frozen=True)
class Filter:
    """Which rollouts; None for any."""

    run: str | None = None
    step: int | None = None
    mode: str | None = None
    status: str | None = None
    task: str | None = None
    agent: str | None = None
    reason: str | None = None
    least: float | None = None
    """Of the return."""
    most: float | None = None
    before: int | None = None
    """The cursor: only rollouts that were queued before this one."""

    @property
    def labels(self) -> list[tuple[str, str]]:
        """What is looked for in the table of labels."""
        wanted = (("agent", self.agent), ("reason", self.reason))
        return [(kind, name) for kind, name in wanted if name is not None]


@dataclass(frozen=True)
class Listed:
    """A page of rollouts, newest first, with their returns; `next` is the cursor of the page after it."""

    rollouts: list[tuple[Rollout, float | None]]
    next: int | None


def list_rollouts(connection: Connection, wanted: Filter) -> Listed:
    """The newest rollouts that fit."""
    rare = {kind: _is_rare(connection, kind, name) for kind, name in wanted.labels}
    scan = connection.dialect.name == "sqlite" and not any(rare.values()) and not _has_an_index(wanted)
    conditions = [*_conditions(wanted, scan=scan), *(_labelled(*label, rare[label[0]]) for label in wanted.labels)]
    query = select(rollouts.c.seq).where(*conditions).order_by(rollouts.c.seq.desc()).limit(PAGE + 1)
    found = list(connection.execute(query).scalars())
    shown = found[:PAGE]
    rows = connection.execute(select(rollouts).where(rollouts.c.seq.in_(shown)).order_by(rollouts.c.seq.desc()))
    listed = [(to_rollout(row), row.total) for row in rows]
    return Listed(listed, shown[-1] if len(found) > PAGE else None)


def _has_an_index(wanted: Filter) -> bool:
    """Whether an index leads to what fits without many rows beside it."""
    if wanted.task is not None or (wanted.run is not None and wanted.step is not None):
        return True
    others = (wanted.mode, wanted.least, wanted.most, wanted.step, *wanted.labels)
    return all(value is None for value in others) and (wanted.run is None or wanted.status is None)


def _conditions(wanted: Filter, *, scan: bool) -> list[ColumnElement[bool]]:
    """What must hold. `scan` is for SQLite, which keeps no statistics by value: it would take the index of a frequent
    value and read a fat row for each; behind a plus sign it does not, and reads the index that has all columns."""
    equal = {"run": wanted.run, "step": wanted.step, "mode": wanted.mode, "status": wanted.status}
    plus = "+" if scan else ""
    conditions = [
        literal_column(f"{plus}rollouts.{name}") == value for name, value in equal.items() if value is not None
    ]
    if wanted.task is not None:
        conditions.append(rollouts.c.task_id == wanted.task[:LONGEST])
    if wanted.before is not None:
        conditions.append(rollouts.c.seq < wanted.before)
    if wanted.least is not None:
        conditions.append(rollouts.c.total >= wanted.least)
    if wanted.most is not None:
        conditions.append(rollouts.c.total <= wanted.most)
    return conditions


def _is_rare(connection: Connection, kind: str, name: str) -> bool:
    some = select(labels.c.seq).where(labels.c.kind == kind, labels.c.name == name).limit(_FEW).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one() < _FEW


def _labelled(kind: str, name: str, rare: bool) -> ColumnElement[bool]:
    these = (labels.c.kind == kind) & (labels.c.name == name)
    if rare:
        return rollouts.c.seq.in_(select(labels.c.seq).where(these))
    return exists().where(these, labels.c.seq == rollouts.c.seq)


def known_labels(connection: Connection, kind: Literal["agent", "reason"]) -> list[str]:
    """All names of a kind, in order; each is found by one step in the index."""
    return _names(connection, labels.c.name, labels.c.kind == kind)


def known_runs(connection: Connection) -> list[str]:
    """All names of runs that rollouts carry."""
    return [name for name in _names(connection, rollouts.c.run) if name]


def _names(connection: Connection, column: ColumnElement[str], *conditions: ColumnElement[bool]) -> list[str]:
    names: list[str] = []
    after: tuple[ColumnElement[bool], ...] = ()
    while len(names) < _MOST_NAMES:
        name: Any = connection.execute(select(func.min(column)).where(*conditions, *after)).scalar_one()
        if name is None:
            break
        names.append(name)
        after = (column > name,)
    return names


def group_members(connection: Connection, group_id: str, limit: int) -> list[tuple[Rollout, float | None]]:
    """The rollouts of a group with their returns, in the order of queueing."""
    query = select(rollouts).where(rollouts.c.group_id == group_id).order_by(rollouts.c.seq).limit(limit)
    return [(to_rollout(row), row.total) for row in connection.execute(query)]


@dataclass(frozen=True)
class Runner:
    """What one runner holds. Times are UNIX seconds."""

    name: str
    rollouts: int
    oldest: float
    lease_until: float
    """The lease that runs out first."""


def queue_state(connection: Connection, since: float) -> tuple[int, list[Runner], dict[str, int]]:
    """How many rollouts are queued, who holds the running ones, and how many ended since then, by status."""
    queued = connection.execute(select(func.count()).where(rollouts.c.status == "queued")).scalar_one()
    held = (
        select(
            rollouts.c.runner,
            func.count(),
            func.min(rollouts.c.started_at),
            func.min(rollouts.c.lease_until),
        )
        .where(rollouts.c.status == "running")
        .group_by(rollouts.c.runner)
        .order_by(rollouts.c.runner)
    )
    runners = [Runner(*row) for row in connection.execute(held)]
    lately = select(rollouts.c.status).where(rollouts.c.finished_at >= since).limit(_DEEPEST).subquery()
    ended = select(lately.c.status, func.count()).group_by(lately.c.status)
    return queued, runners, {row[0]: row[1] for row in connection.execute(ended)}


def pulse(connection: Connection) -> str:
    """A text that differs when something happened that a page may show."""
    running = rollouts.c.status == "running"
    parts = [
        select(func.max(rollouts.c.seq)),
        select(func.max(rollouts.c.finished_at)),
        select(func.count()).select_from(rollouts).where(running),
        select(func.max(rollouts.c.lease_until)).where(running),
        select(func.max(steps.c.noted_at)),
        select(func.max(endpoints.c.published_at)),
    ]
    return "/".join(str(connection.execute(part).scalar_one()) for part in parts)
