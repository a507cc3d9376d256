"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_CURSOR = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "rollouts",
        sa.Column("seq", _CURSOR, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(200), nullable=False, unique=True),
        sa.Column("group_id", sa.String(200), nullable=False),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("mode", sa.String(10), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("runner", sa.String(200)),
        sa.Column("lease_until", sa.Float),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("ending", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("rollouts_by_status", "rollouts", ["status", "seq"])
    op.create_index("rollouts_by_run", "rollouts", ["run", "seq"])
    op.create_index("rollouts_by_group", "rollouts", ["group_id", "seq"])
    op.create_index("rollouts_by_lease", "rollouts", ["lease_until"])
    op.create_table(
        "calls",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("rollout_id", sa.String(200)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("status", sa.String(10)),
        sa.Column("gaps", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("arrays", sa.LargeBinary, nullable=False),
    )
    op.create_index("calls_by_rollout", "calls", ["rollout_id", "attempt", "started_at"])
    _make_the_others()


def _make_the_others() -> None:
    op.create_table(
        "blocks",
        sa.Column("hash", sa.LargeBinary(16), primary_key=True),
        sa.Column("parent", sa.LargeBinary(16)),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("refs", sa.Integer, nullable=False),
    )
    op.create_table(
        "rewards",
        sa.Column("seq", _CURSOR, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(200), nullable=False, unique=True),
        sa.Column("rollout_id", sa.String(200), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("agent", sa.Text),
        sa.Column("call_id", sa.String(200)),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("rewards_by_rollout", "rewards", ["rollout_id", "attempt", "seq"])
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("published_at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "credits",
        sa.Column("call_id", sa.String(200), primary_key=True),
        sa.Column("run", sa.String(200), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("rollout_id", sa.String(200), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("credits_by_rollout", "credits", ["rollout_id"])
