"""Calls, rewards, credits and endpoints as functions over a connection."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, select, update

from leyden.errors import Conflict, LeaseLost, NotFound
from leyden.merge import merge
from leyden.store import blocks, facets
from leyden.store.call_rows import decode, encode, heads
from leyden.store.changes import ENDPOINTS, calls_of, touch
from leyden.store.completeness import gaps
from leyden.store.schema import calls, credits, endpoints, rewards, rollouts
from leyden.store.statements import insert_rows, rows_with, run
from leyden.types import Call, Credit, Endpoint, Reward

__all__ = [
    "add_rewards",
    "insert_calls",
    "insert_rewards",
    "put_credits",
    "put_endpoint",
    "read_call",
    "read_calls",
    "read_rewards",
    "record_all",
]

_REWARDED = tuple(column for column in rewards.c if column is not rewards.c.seq)
_REWARD = insert(rewards).values({column.name: bindparam(column.name) for column in _REWARDED})
_CURRENT_CALL = and_(rollouts.c.id == calls.c.rollout_id, rollouts.c.attempt == calls.c.attempt)
_CURRENT_REWARD = and_(rollouts.c.id == rewards.c.rollout_id, rollouts.c.attempt == rewards.c.attempt)
_LEARNT = select(credits.c.run, credits.c.step).where(credits.c.rollout_id == bindparam("rollout")).limit(1)


def record_all(connection: Connection, lists: Sequence[Sequence[Call]]) -> None:
    """Merge records of calls into what is known of them; what is new goes in together."""
    new = [call for calls_ in lists for call in calls_]
    known = {row[0] for row in rows_with(connection, (calls.c.id,), calls.c.id, [call.id for call in new])}
    finished = _finished(connection, new)
    fresh: dict[str, Call] = {}
    for call in new:
        touch(connection, calls_of(call.rollout_id))
        ended = (call.rollout_id, call.attempt) in finished
        if call.id in known:
            _merge_stored(connection, call, ended=ended)
        elif ended:
            raise Conflict(f"rollout {call.rollout_id} has finished; call {call.id} comes too late")
        else:
            fresh[call.id] = merge(fresh[call.id], call) if call.id in fresh else call
    if fresh:
        insert_calls(connection, list(fresh.values()))


def _finished(connection: Connection, new: Sequence[Call]) -> set[tuple[str | None, int]]:
    """(rollout id, attempt) of the rollouts that have finished.

    Raises:
        NotFound: a call names a rollout that does not exist.
    """
    named = {call.rollout_id: call for call in new if call.rollout_id is not None}
    wanted = (rollouts.c.id, rollouts.c.attempt, rollouts.c.status)
    states = {row[0]: (row[1], row[2]) for row in rows_with(connection, wanted, rollouts.c.id, list(named))}
    for missing in named.keys() - states.keys():
        raise NotFound(f"call {named[missing].id} names rollout {missing!r}, which does not exist")
    return {(name, attempt) for name, (attempt, status) in states.items() if status not in ("queued", "running")}


def _merge_stored(connection: Connection, call: Call, *, ended: bool) -> None:
    row = connection.execute(select(calls).where(calls.c.id == call.id)).one()
    old = decode_rows(connection, [row])[0]
    merged = merge(old, call)
    if merged == old:
        return
    if ended and (merged.attempts, merged.request) != (old.attempts, old.request):
        raise Conflict(f"rollout {call.rollout_id} has finished; call {call.id} takes no more attempts")
    _replace(connection, merged, row.record)


def _values(call: Call) -> tuple[dict[str, Any], list[blocks.Chain]]:
    encoded = encode(call)
    values = {
        "rollout_id": call.rollout_id,
        "attempt": call.attempt,
        "started_at": call.started_at,
        "status": call.status,
        "gaps": json.dumps(gaps(call)),
        "record": encoded.record,
        "arrays": encoded.arrays,
    }
    return values, list(encoded.chains)


def insert_calls(connection: Connection, new: Sequence[Call]) -> None:
    """Insert calls whose ids are not there yet."""
    rows: list[dict[str, Any]] = []
    chains: list[blocks.Chain] = []
    for call in new:
        values, its_chains = _values(call)
        rows.append({"id": call.id, **values})
        chains += its_chains
    blocks.retain(connection, chains)
    insert_rows(connection, calls, rows)


def _replace(connection: Connection, call: Call, old_record: bytes) -> None:
    values, chains = _values(call)
    blocks.retain(connection, chains)
    connection.execute(update(calls).where(calls.c.id == call.id).values(**values))
    blocks.release(connection, heads([old_record]))


def decode_rows(connection: Connection, rows: Sequence[Row[Any]]) -> list[Call]:
    """The rows as calls; shared blocks are read once."""
    found = blocks.read_blocks(connection, heads(row.record for row in rows))
    return [decode(row.record, row.arrays, found) for row in rows]


def read_calls(connection: Connection, rollout_ids: Sequence[str]) -> list[Call]:
    """The calls of the rollouts' current attempts, by rollout as asked for, then by start."""
    rows = rows_with(connection, tuple(calls.c), calls.c.rollout_id, rollout_ids, _CURRENT_CALL)
    place = {rollout_id: place for place, rollout_id in enumerate(rollout_ids)}
    rows.sort(key=lambda row: (place[row.rollout_id], row.started_at, row.id))
    return decode_rows(connection, rows)


def read_call(connection: Connection, call_id: str) -> Call:
    """One call."""
    row = connection.execute(select(calls).where(calls.c.id == call_id)).one_or_none()
    if row is None:
        raise NotFound(f"no call has the id {call_id!r}")
    return decode_rows(connection, [row])[0]


def add_rewards(connection: Connection, new: Sequence[Reward]) -> None:
    """Insert what is new; what is there must be the same but for its time."""
    for reward in new:
        row = next(iter(rows_with(connection, tuple(rewards.c), rewards.c.id, [reward.id])), None)
        if row is not None:
            if _reward(row).model_copy(update={"created_at": reward.created_at}) != reward:
                raise Conflict(
                    f"reward {reward.id} was given before as {row.value}, now {reward.value}; the first stays"
                )
            continue
        ended = _check_open(connection, reward)
        if reward.call_id is not None:
            _check_call(connection, reward)
        run(connection, _REWARD, reward.model_dump())
        if ended:
            facets.add_to_total(connection, reward)


def insert_rewards(connection: Connection, new: Sequence[Reward]) -> None:
    """Insert rewards as they are, in their order."""
    if new:
        connection.execute(insert(rewards), [reward.model_dump() for reward in new])


def _check_open(connection: Connection, reward: Reward) -> bool:
    """An agent rewards while its attempt runs, a grader until somebody has learnt from the rollout; has it ended?"""
    wanted = (rollouts.c.attempt, rollouts.c.status)
    row = next(iter(rows_with(connection, wanted, rollouts.c.id, [reward.rollout_id])), None)
    if row is None:
        raise NotFound(f"reward {reward.id} names rollout {reward.rollout_id!r}, which does not exist")
    if reward.source == "agent" and (row.attempt, row.status) != (reward.attempt, "running"):
        raise LeaseLost(
            f"reward {reward.id} of attempt {reward.attempt} of rollout {reward.rollout_id} comes from its agent, and "
            f"the rollout is {row.status} in attempt {row.attempt}; an agent rewards while its attempt runs"
        )
    ended = row.status not in ("queued", "running")
    for used in run(connection, _LEARNT, {"rollout": reward.rollout_id}) if ended else ():
        raise Conflict(
            f"rollout {reward.rollout_id} was consumed by step {used.step} of run {used.run!r}, so reward {reward.id} "
            "comes too late; what was learnt from it would not be what the store says"
        )
    return ended


def _check_call(connection: Connection, reward: Reward) -> None:
    query = select(calls.c.rollout_id).where(calls.c.id == reward.call_id)
    if connection.execute(query).scalar_one_or_none() != reward.rollout_id:
        raise NotFound(f"reward {reward.id} names call {reward.call_id!r}, which rollout {reward.rollout_id} has not")


def _reward(row: Row[Any]) -> Reward:
    return Reward.model_validate({name: getattr(row, name) for name in Reward.model_fields})


def read_rewards(connection: Connection, rollout_ids: Sequence[str]) -> list[Reward]:
    """The rewards of the rollouts' current attempts, in the order in which they came."""
    rows = rows_with(connection, tuple(rewards.c), rewards.c.rollout_id, rollout_ids, _CURRENT_REWARD)
    return [_reward(row) for row in sorted(rows, key=lambda row: row.seq)]


def put_endpoint(connection: Connection, endpoint: Endpoint) -> None:
    """Add or replace."""
    connection.execute(delete(endpoints).where(endpoints.c.id == endpoint.id))
    values = {"id": endpoint.id, "published_at": endpoint.published_at, "body": endpoint.model_dump_json()}
    connection.execute(insert(endpoints).values(**values))
    touch(connection, ENDPOINTS)


def put_credits(connection: Connection, new: Sequence[Credit]) -> None:
    """Add or replace, by call, run and step."""
    for credit in new:
        key = {"call_id": credit.call_id, "run": credit.run, "step": credit.step}
        same = and_(credits.c.call_id == credit.call_id, credits.c.run == credit.run, credits.c.step == credit.step)
        connection.execute(delete(credits).where(same))
        values = {**key, "rollout_id": credit.rollout_id, "body": credit.model_dump_json()}
        connection.execute(insert(credits).values(**values))
