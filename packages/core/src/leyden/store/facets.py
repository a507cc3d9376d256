"""What finished rollouts are looked for by: their return, their agents, the kinds of reasons why they are incomplete.

Written once, when a rollout ends, so that no model call pays for it; what calls hold is compressed and not searched.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from leyden.store.call_rows import agents_in
from leyden.store.schema import calls, labels, rewards, rollouts
from leyden.store.statements import insert_rows, run
from leyden.types import Reward

__all__ = ["LONGEST", "RETURN", "add_to_total", "kind_of_reason", "label", "settle"]

LONGEST = 200
"""Characters of a task's id or of a label that are looked for."""

RETURN = (
    select(func.sum(rewards.c.value))
    .where(rewards.c.rollout_id == bindparam("rollout"), rewards.c.attempt == bindparam("of_attempt"))
    .where(rewards.c.agent.is_(None), rewards.c.call_id.is_(None))
    .scalar_subquery()
)
"""What an attempt was worth, with its `rollout` and `of_attempt`; a rollout that ends has it as its `total`."""

_ENDED = select(rollouts.c.seq, rollouts.c.attempt, rollouts.c.ending).where(rollouts.c.id == bindparam("ended"))
_TOTAL = update(rollouts).where(rollouts.c.seq == bindparam("place")).values(total=RETURN)
_ADD_TO_TOTAL = (
    update(rollouts)
    .where(rollouts.c.id == bindparam("rollout"), rollouts.c.attempt == bindparam("of_attempt"))
    .values(total=func.coalesce(rollouts.c.total, 0.0) + bindparam("more"))
)
_RECORDS = select(calls.c.record).where(
    calls.c.rollout_id == bindparam("rollout"), calls.c.attempt == bindparam("of_attempt")
)


def kind_of_reason(reason: str) -> str:
    """The reason without what differs from rollout to rollout: ids of calls and of runners, numbers."""
    text = re.sub(r"\bcall \S+(?= (was|is|lacks|has)\b)", "a call", reason)
    text = re.sub(r"\brunner \S+", "runner …", text)
    return re.sub(r"\b\d+(\.\d+)?\b", "…", text)[:LONGEST]


def settle(connection: Connection, rollout_id: str) -> None:
    """Note of a rollout that ended elsewhere what it can be found by."""
    (row,) = run(connection, _ENDED, {"ended": rollout_id})
    mine = {"rollout": rollout_id, "of_attempt": row.attempt}
    run(connection, _TOTAL, {"place": row.seq, **mine})
    label(connection, row.seq, mine, json.loads(row.ending or "{}").get("incomplete", ()))


def label(connection: Connection, seq: int, mine: dict[str, Any], incomplete: Iterable[str]) -> None:
    """Note the agents of the calls of a rollout that ended, and why it is incomplete, if it is.

    Args:
        mine: its id as "rollout", its attempt as "of_attempt".
    """
    stored = (row.record for row in run(connection, _RECORDS, mine))
    found = [("agent", name[:LONGEST]) for name in agents_in(stored)]
    found += [("reason", kind_of_reason(reason)) for reason in incomplete]
    insert_rows(connection, labels, [{"kind": kind, "name": name, "seq": seq} for kind, name in sorted(set(found))])


def add_to_total(connection: Connection, reward: Reward) -> None:
    """Count a reward of a rollout that has ended: a rule's, a judge's."""
    if reward.agent is None and reward.call_id is None:
        given = {"rollout": reward.rollout_id, "of_attempt": reward.attempt, "more": reward.value}
        run(connection, _ADD_TO_TOTAL, given)
