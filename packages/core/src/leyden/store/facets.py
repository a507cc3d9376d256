"""What finished rollouts are looked for by: their return, their agents, the kinds of reasons why they are incomplete.

Written once, when a rollout ends, so that no model call pays for it; what calls hold is compressed and not searched.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from leyden.store.call_rows import agents_in
from leyden.store.schema import calls, labels, rewards, rollouts
from leyden.types import Reward

__all__ = ["LONGEST", "add_to_total", "kind_of_reason", "settle"]

LONGEST = 200
"""Characters of a task's id or of a label that are looked for."""


def kind_of_reason(reason: str) -> str:
    """The reason without what differs from rollout to rollout: ids of calls and of runners, numbers."""
    text = re.sub(r"\bcall \S+(?= (was|is|lacks|has)\b)", "a call", reason)
    text = re.sub(r"\brunner \S+", "runner …", text)
    return re.sub(r"\b\d+(\.\d+)?\b", "…", text)[:LONGEST]


def settle(connection: Connection, rollout_id: str) -> None:
    """Note of a rollout that has just ended what it can be found by."""
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout_id)).one()
    mine = (rewards.c.rollout_id == row.id) & (rewards.c.attempt == row.attempt)
    whole = rewards.c.agent.is_(None) & rewards.c.call_id.is_(None)
    total = select(func.sum(rewards.c.value)).where(mine, whole).scalar_subquery()
    connection.execute(update(rollouts).where(rollouts.c.seq == row.seq).values(total=total))
    found = [("agent", name[:LONGEST]) for name in _agents(connection, row)]
    found += [("reason", kind_of_reason(reason)) for reason in json.loads(row.ending or "{}").get("incomplete", ())]
    _label(connection, row.seq, found)


def _agents(connection: Connection, row: Row[Any]) -> Iterable[str]:
    mine = (calls.c.rollout_id == row.id) & (calls.c.attempt == row.attempt)
    return agents_in(connection.execute(select(calls.c.record).where(mine)).scalars())


def _label(connection: Connection, seq: int, found: Iterable[tuple[str, str]]) -> None:
    rows = [{"kind": kind, "name": name, "seq": seq} for kind, name in sorted(set(found))]
    if rows:
        connection.execute(insert(labels), rows)


def add_to_total(connection: Connection, reward: Reward) -> None:
    """Count a reward that came after the end: a rule's, a judge's."""
    if reward.agent is not None or reward.call_id is not None:
        return
    ended = rollouts.c.status.not_in(("queued", "running"))
    mine = (rollouts.c.id == reward.rollout_id) & (rollouts.c.attempt == reward.attempt)
    total = func.coalesce(rollouts.c.total, 0.0) + reward.value
    connection.execute(update(rollouts).where(mine, ended).values(total=total))
