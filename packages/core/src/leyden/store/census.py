"""What is going on in a store, counted at a price that does not grow with what has finished."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from leyden.store.schema import rollouts

__all__ = ["Census", "census", "reason_of", "schema_revision"]

NEWEST = 1000
_REASONS = (
    ("was made but never recorded", "call_not_recorded"),
    ("is dangling", "call_dangling"),
    ("redacted", "redacted"),
    (" lacks ", "tokens_missing"),
    ("it has no reward", "reward_missing"),
    ("the reward function", "reward_error"),
    ("attempts were lost", "attempts_lost"),
    ("were not recorded", "capture_lost"),
    ("was not recorded", "capture_lost"),
    ("were refused with", "capture_lost"),
)


@dataclass(frozen=True)
class Census:
    """Rollouts that wait and run, and why the newest 1000 incomplete ones are that."""

    queued: int
    running: int
    oldest_lease_s: float
    """Since the start of the attempt that has run for longest; 0 if none runs."""
    incomplete: Mapping[str, int]
    """Number of rollouts by the kind of their first reason."""


def census(connection: Connection) -> Census:
    """Count."""
    live = select(rollouts.c.status, func.count(), func.min(rollouts.c.started_at))
    rows = connection.execute(live.where(rollouts.c.status.in_(("queued", "running"))).group_by(rollouts.c.status))
    counted = {status: (number, since) for status, number, since in rows}
    running, since = counted.get("running", (0, None))
    newest = select(rollouts.c.ending).where(rollouts.c.status == "incomplete").order_by(rollouts.c.seq.desc())
    endings = connection.execute(newest.limit(NEWEST)).scalars()
    reasons = Counter(reason_of(json.loads(ending)["incomplete"][0]) for ending in endings)
    return Census(
        queued=counted.get("queued", (0, None))[0],
        running=running,
        oldest_lease_s=0.0 if since is None else max(0.0, time.time() - since),
        incomplete=reasons,
    )


def reason_of(text: str) -> str:
    """The kind of a reason for being incomplete: few, so that they can label a metric."""
    return next((kind for phrase, kind in _REASONS if phrase in text), "other")


def schema_revision(connection: Connection) -> str | None:
    """The revision of the tables, as a newer Leyden may have changed it under a running server."""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
