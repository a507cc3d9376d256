"""Runs and what they measure at each step, as functions over a connection."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from leyden.errors import NotFound
from leyden.store.schema import runs, steps
from leyden.types import Run, Step

__all__ = ["begin", "note", "read_runs", "read_steps"]


def begin(connection: Connection, run: Run, after_step: int) -> None:
    """Add or replace the run, and drop the steps that it will do again."""
    connection.execute(delete(runs).where(runs.c.name == run.name))
    connection.execute(insert(runs).values(name=run.name, started_at=run.started_at, body=run.model_dump_json()))
    connection.execute(delete(steps).where(steps.c.run == run.name, steps.c.step > after_step))


def note(connection: Connection, new: Sequence[Step]) -> None:
    """Add metrics to steps."""
    for step in new:
        if connection.execute(select(runs.c.name).where(runs.c.name == step.run)).first() is None:
            raise NotFound(f"step {step.step} names run {step.run!r}, which was never begun")
        same = (steps.c.run == step.run) & (steps.c.step == step.step)
        known = connection.execute(select(steps.c.metrics).where(same)).scalar_one_or_none()
        metrics = {**json.loads(known or "{}"), **step.metrics}
        connection.execute(delete(steps).where(same))
        values = {"run": step.run, "step": step.step, "noted_at": step.noted_at}
        connection.execute(insert(steps).values(**values, metrics=json.dumps(metrics)))


def read_runs(connection: Connection) -> list[Run]:
    """All, the newest first."""
    query = select(runs.c.body).order_by(runs.c.started_at.desc(), runs.c.name)
    return [Run.model_validate_json(body) for body in connection.execute(query).scalars()]


def read_steps(connection: Connection, run: str) -> list[Step]:
    """Those of one run, in order."""
    rows = connection.execute(select(steps).where(steps.c.run == run).order_by(steps.c.step))
    return [Step(run=row.run, step=row.step, metrics=json.loads(row.metrics), noted_at=row.noted_at) for row in rows]
