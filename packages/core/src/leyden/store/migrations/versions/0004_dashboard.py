"""Runs, their steps, and what rollouts are looked for by."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables and columns, and fill in what is known of the rollouts that are there."""
    op.add_column("rollouts", sa.Column("step", sa.Integer))
    op.add_column("rollouts", sa.Column("task_id", sa.String(200)))
    op.add_column("rollouts", sa.Column("total", sa.Float))
    op.create_table(
        "runs",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "steps",
        sa.Column("run", sa.String(200), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("noted_at", sa.Float, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
    )
    op.create_index("steps_by_time", "steps", ["noted_at"])
    op.create_table(
        "labels",
        sa.Column("kind", sa.String(10), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    )
    op.create_index("labels_by_rollout", "labels", ["seq"])
    _fill(op.get_bind())
    op.create_index("rollouts_by_step", "rollouts", ["run", "step", "seq"])
    op.create_index("rollouts_by_task", "rollouts", ["task_id", "seq"])
    op.create_index("rollouts_by_finish", "rollouts", ["finished_at"])
    facets = ["seq", "run", "step", "mode", "status", "task_id", "total"]
    op.create_index("rollouts_by_facets", "rollouts", facets)


def _fill(connection: sa.Connection) -> None:
    from leyden.store.facets import LONGEST, settle

    some = sa.text("SELECT seq, id, status, body FROM rollouts WHERE seq > :after ORDER BY seq LIMIT 1000")
    put = sa.text("UPDATE rollouts SET step = :step, task_id = :task_id WHERE seq = :seq")
    after = 0
    while rows := connection.execute(some, {"after": after}).all():
        for seq, rollout_id, status, body in rows:
            queued = json.loads(body)
            task_id = queued.get("task_id", "")[:LONGEST]
            connection.execute(put, {"seq": seq, "step": queued.get("step"), "task_id": task_id})
            if status not in ("queued", "running"):
                settle(connection, rollout_id)
        after = rows[-1].seq
