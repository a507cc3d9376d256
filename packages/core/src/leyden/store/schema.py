"""The tables. Portable SQL only; what is large and repeats (prompts, messages) is in `blocks`, once."""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = ["blocks", "calls", "credits", "endpoints", "labels", "metadata", "rewards", "rollouts", "runs", "steps"]

metadata = MetaData()

_CURSOR = BigInteger().with_variant(Integer, "sqlite")  # SQLite's integers are 64 bits wide under this name only

rollouts = Table(
    "rollouts",
    metadata,
    Column("seq", _CURSOR, primary_key=True, autoincrement=True),  # the cursor: order of queueing
    Column("id", String(200), nullable=False, unique=True),
    Column("group_id", String(200), nullable=False),
    Column("run", String(200), nullable=False),
    Column("mode", String(10), nullable=False),
    Column("status", String(10), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("runner", String(200)),
    Column("lease_until", Float),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("body", Text, nullable=False),  # JSON of what the trainer queued
    Column("ending", Text),  # JSON of result, failure, incomplete
    Column("released", Integer, nullable=False, server_default="0"),  # attempts that were given back unrun
    # What rollouts are looked for by, beside the above; see `leyden.store.facets`.
    Column("step", Integer),
    Column("task_id", String(200)),  # the first 200 characters
    Column("total", Float),  # the reward of the rollout as a whole, once it has ended
    Index("rollouts_by_status", "status", "seq"),
    Index("rollouts_by_run", "run", "seq"),
    Index("rollouts_by_group", "group_id", "seq"),
    Index("rollouts_by_lease", "lease_until"),
    Index("rollouts_by_step", "run", "step", "seq"),
    Index("rollouts_by_task", "task_id", "seq"),
    Index("rollouts_by_finish", "finished_at"),
    Index("rollouts_by_facets", "seq", "run", "step", "mode", "status", "task_id", "total"),  # answers any mixture
    sqlite_autoincrement=True,  # a cursor value is never used again, also after the newest rows were deleted
)

calls = Table(
    "calls",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("rollout_id", String(200)),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("status", String(10)),
    Column("gaps", Text, nullable=False),  # JSON list: why it cannot be trained on
    Column("record", LargeBinary, nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Index("calls_by_rollout", "rollout_id", "attempt", "started_at"),
)

blocks = Table(
    "blocks",
    metadata,
    Column("hash", LargeBinary(16), primary_key=True),
    Column("parent", LargeBinary(16)),
    Column("data", LargeBinary, nullable=False),
    Column("refs", Integer, nullable=False),  # child blocks and calls that point here
)

rewards = Table(
    "rewards",
    metadata,
    Column("seq", _CURSOR, primary_key=True, autoincrement=True),
    Column("id", String(200), nullable=False, unique=True),
    Column("rollout_id", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("value", Float, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", String(10), nullable=False),
    Column("agent", Text),
    Column("call_id", String(200)),
    Column("created_at", Float, nullable=False),
    Index("rewards_by_rollout", "rollout_id", "attempt", "seq"),
    sqlite_autoincrement=True,
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("published_at", Float, nullable=False),
    Column("body", Text, nullable=False),
)

credits = Table(
    "credits",
    metadata,
    Column("call_id", String(200), primary_key=True),
    Column("run", String(200), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("rollout_id", String(200), nullable=False),
    Column("body", Text, nullable=False),
    Index("credits_by_rollout", "rollout_id"),
)

runs = Table(
    "runs",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("body", Text, nullable=False),
)

steps = Table(
    "steps",
    metadata,
    Column("run", String(200), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("noted_at", Float, nullable=False),
    Column("metrics", Text, nullable=False),  # JSON
    Index("steps_by_time", "noted_at"),
)

labels = Table(
    "labels",
    metadata,
    Column("kind", String(10), primary_key=True),  # agent, reason
    Column("name", String(200), primary_key=True),
    Column("seq", _CURSOR, primary_key=True, autoincrement=False),  # the rollout's
    Index("labels_by_rollout", "seq"),
)
