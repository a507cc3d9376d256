"""The life of a rollout, as functions over a connection: queued, claimed with a lease, finished, lost, queued again."""

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from leyden.errors import Conflict, LeaseLost, NotFound
from leyden.store import facets
from leyden.store.changes import LEASES, QUEUE, end_of, touch
from leyden.store.schema import calls, rewards, rollouts
from leyden.store.statements import rows_with, run
from leyden.types import Failure, Outcome, Rollout

__all__ = ["claim", "expire", "finish", "heartbeat", "insert_finished", "queue", "release", "row_of", "to_rollout"]

_PLACE = {"id", "group_id", "task_id", "task", "mode", "run", "step"}
_STATE = {"status", "attempt", "released", "runner", "lease_until", "started_at", "finished_at"}
_BODY = _PLACE | {"sampling", "reward_from", "replay", "max_attempts", "created_at"}

_RUNNING = rollouts.c.status == "running"
_QUEUE = insert(rollouts).values(
    status="queued",
    attempt=0,
    **{name: bindparam(name) for name in ("id", "group_id", "run", "mode", "step", "task_id", "body")},
)
_OLDEST = select(rollouts.c.id).where(rollouts.c.status == "queued").order_by(rollouts.c.seq).limit(bindparam("most"))
_CLAIM = (
    update(rollouts)
    .where(rollouts.c.id == bindparam("claimed"))
    .values(
        status="running",
        attempt=rollouts.c.attempt + 1,
        runner=bindparam("by"),
        lease_until=bindparam("until"),
        started_at=bindparam("now"),
    )
)
_RENEW = update(rollouts).where(rollouts.c.id == bindparam("held")).values(lease_until=bindparam("until"))
_SILENT = select(rollouts).where(_RUNNING, rollouts.c.lease_until <= bindparam("now"))
_NEXT_LEASE = select(func.min(rollouts.c.lease_until)).where(_RUNNING)
_END = (
    update(rollouts)
    .where(rollouts.c.id == bindparam("ended"))
    .values(
        lease_until=None,
        total=facets.RETURN,
        **{name: bindparam(name) for name in ("status", "finished_at", "ending")},
    )
)
_GAPS = (
    select(calls.c.id, calls.c.gaps)
    .where(calls.c.rollout_id == bindparam("rollout"), calls.c.attempt == bindparam("of_attempt"))
    .order_by(calls.c.started_at)
)
_WHOLE_REWARD = (
    select(rewards.c.seq)
    .where(rewards.c.rollout_id == bindparam("rollout"), rewards.c.attempt == bindparam("of_attempt"))
    .where(rewards.c.agent.is_(None), rewards.c.call_id.is_(None))
    .limit(1)
)


def to_rollout(row: Any) -> Rollout:
    """The row as a Rollout."""
    state = {
        "status": row.status,
        "attempt": row.attempt,
        "released": row.released,
        "runner": row.runner,
        "lease_until": row.lease_until,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }
    ending: dict[str, Any] = json.loads(row.ending) if row.ending else {}
    return Rollout.model_validate({**json.loads(row.body), **state, **ending})


def queue(connection: Connection, wanted: Sequence[Rollout]) -> None:
    """Insert what is new; what is there must be the same but for the time of its making."""
    known: dict[str, str] = {row.id: row.body for row in _select(connection, [rollout.id for rollout in wanted])}
    for rollout in wanted:
        body = rollout.model_dump_json(include=_BODY)
        if rollout.id not in known:
            known[rollout.id] = body
            values = {"id": rollout.id, "group_id": rollout.group_id, "run": rollout.run, "mode": rollout.mode}
            values |= {"step": rollout.step, "task_id": rollout.task_id[: facets.LONGEST]}
            run(connection, _QUEUE, {**values, "body": body})
        elif _asked(known[rollout.id]) != _asked(body):
            raise Conflict(f"rollout {rollout.id} was queued before with other content; give the new one its own id")
    touch(connection, QUEUE)


def insert_finished(connection: Connection, rollout: Rollout) -> bool:
    """Insert a rollout as it ended elsewhere; False if it is there already.

    Raises:
        Conflict: it is there with other content.
    """
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout.id)).one_or_none()
    if row is not None:
        if to_rollout(row) != rollout:
            raise Conflict(f"rollout {rollout.id} is there with other content; import into a store of its own")
        return False
    state = rollout.model_dump(include=_PLACE - {"task"} | _STATE)
    state["task_id"] = rollout.task_id[: facets.LONGEST]
    ending = rollout.model_dump(mode="json", include={"result", "failure", "incomplete"})
    body = rollout.model_dump_json(include=_BODY)
    connection.execute(insert(rollouts).values(**state, body=body, ending=json.dumps(ending)))
    return True


def _asked(body: str) -> Rollout:
    """What was queued but for the time of it; a field that an older Leyden did not write has its default."""
    return Rollout.model_validate_json(body).model_copy(update={"created_at": 0.0})


def _select(connection: Connection, ids: Sequence[str]) -> list[Any]:
    return rows_with(connection, tuple(rollouts.c), rollouts.c.id, ids)


def row_of(connection: Connection, rollout_id: str) -> Any:
    """The row of a rollout.

    Raises:
        NotFound: there is none.
    """
    rows = _select(connection, [rollout_id])
    if not rows:
        raise NotFound(f"no rollout has the id {rollout_id!r}")
    return rows[0]


def claim(connection: Connection, runner: str, limit: int, lease_s: float) -> list[Rollout]:
    """Take the oldest queued rollouts, each as its next attempt."""
    expire(connection)
    now = time.time()
    ids = [row.id for row in run(connection, _OLDEST, {"most": limit})]
    if ids:
        lease = {"by": runner, "until": now + lease_s, "now": now}
        run(connection, _CLAIM, [{"claimed": rollout_id, **lease} for rollout_id in ids])
        touch(connection, LEASES)
    taken = {row.id: row for row in _select(connection, ids)}
    return [to_rollout(taken[rollout_id]) for rollout_id in ids]


def _held(connection: Connection, runner: str, held: Sequence[tuple[str, int]]) -> list[str]:
    rows = {row.id: row for row in _select(connection, [rollout_id for rollout_id, _ in held])}
    return [
        rollout_id
        for rollout_id, attempt in held
        if rollout_id in rows and _holds(rows[rollout_id], runner, attempt) and rows[rollout_id].status == "running"
    ]


def _holds(row: Any, runner: str, attempt: int) -> bool:
    return row.runner == runner and row.attempt == attempt


def heartbeat(connection: Connection, runner: str, held: Sequence[tuple[str, int]], lease_s: float) -> list[str]:
    """Renew the leases that the runner still has."""
    expire(connection)
    ids = _held(connection, runner, held)
    if ids:
        run(connection, _RENEW, [{"held": rollout_id, "until": time.time() + lease_s} for rollout_id in ids])
        touch(connection, LEASES)
    return ids


def release(connection: Connection, runner: str, held: Sequence[tuple[str, int]]) -> None:
    """Put rollouts back. Their attempt's number is spent, so that its key opens nothing more, but it is not counted."""
    values = {"status": "queued", "released": rollouts.c.released + 1, "runner": None, "lease_until": None}
    ids = _held(connection, runner, held)
    connection.execute(update(rollouts).where(rollouts.c.id.in_(ids)).values(**values, started_at=None))
    touch(connection, QUEUE)


def expire(connection: Connection) -> float | None:
    """Act on leases that ran out; returns when the next one will, None if there is none."""
    now = time.time()
    for row in run(connection, _SILENT, {"now": now}):
        _lose(connection, row, f"its runner {row.runner} was silent for longer than the lease")
    ((next_lease,),) = run(connection, _NEXT_LEASE, {})
    return next_lease


def _lose(connection: Connection, row: Any, why: str, failure: Failure | None = None) -> None:
    """Queue the next attempt, or end incomplete when there is none left."""
    limit = json.loads(row.body)["max_attempts"]
    lost = row.attempt - row.released
    if lost < limit:
        _update(connection, row.id, {"status": "queued", "lease_until": None})
        touch(connection, QUEUE)
        return
    reason = f"{lost} of at most {limit} attempts were lost, number {row.attempt} because: {why}"
    ending = {"incomplete": [reason], "failure": failure and failure.model_dump(mode="json")}
    _end(connection, row, "incomplete", ending)


def _update(connection: Connection, rollout_id: str, values: dict[str, Any]) -> None:
    connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(**values))


def _end(connection: Connection, row: Any, status: str, ending: dict[str, Any]) -> Rollout:
    mine = {"rollout": row.id, "of_attempt": row.attempt}
    values = {"status": status, "finished_at": time.time(), "ending": json.dumps(ending)}
    run(connection, _END, {"ended": row.id, **mine, **values})
    facets.label(connection, row.seq, mine, ending["incomplete"])
    touch(connection, end_of(row.id))
    return to_rollout(row._replace(lease_until=None, **values))


def finish(connection: Connection, row: Any, outcome: Outcome) -> Rollout:
    """End an attempt of the rollout in the row, and give it as it is then; its rewards are in the store already."""
    if not _holds(row, outcome.runner, outcome.attempt):
        raise LeaseLost(
            f"attempt {outcome.attempt} of rollout {outcome.rollout_id} is not {outcome.runner}'s: "
            f"attempt {row.attempt} is {row.runner}'s; drop this one's result"
        )
    if row.status != "running":
        _check_repeat(row, outcome)
        return to_rollout(row)
    ending = outcome.model_dump(mode="json", include={"result", "failure", "incomplete"})
    if outcome.status == "lost":
        message = outcome.failure.message if outcome.failure else "the runner gave no reason"
        _lose(connection, row, message, outcome.failure)
        return to_rollout(row_of(connection, row.id))
    if row.mode != "trace":
        ending["incomplete"] += _reasons(connection, outcome)
    status = "incomplete" if ending["incomplete"] or outcome.status == "incomplete" else outcome.status
    if status == "incomplete" and not ending["incomplete"]:
        ending["incomplete"] = [outcome.failure.message if outcome.failure else "the runner gave no reason"]
    return _end(connection, row, status, ending)


def _check_repeat(row: Any, outcome: Outcome) -> None:
    """The same outcome again is a no-op; an attempt whose lease ran out is not the runner's any more."""
    if row.status == "queued" and outcome.status != "lost":
        raise LeaseLost(f"the lease of attempt {outcome.attempt} of rollout {row.id} ran out; drop this one's result")


def _reasons(connection: Connection, outcome: Outcome) -> list[str]:
    """Why a rollout that was to be trained on or measured is incomplete."""
    mine = {"rollout": outcome.rollout_id, "of_attempt": outcome.attempt}
    rows = run(connection, _GAPS, mine)
    known = {row.id for row in rows}
    reasons = [
        f"call {call_id} was made but never recorded" for call_id in outcome.call_ids or () if call_id not in known
    ]
    reasons += [gap for row in rows for gap in json.loads(row.gaps)]
    given = [reward for reward in outcome.rewards if reward.attempt == outcome.attempt]
    whole = any(reward.agent is None and reward.call_id is None for reward in given)
    if not outcome.incomplete and not whole and not run(connection, _WHOLE_REWARD, mine):
        reasons.append("it has no reward: name a reward function, or call leyden.reward(...) in the agent")
    return reasons
