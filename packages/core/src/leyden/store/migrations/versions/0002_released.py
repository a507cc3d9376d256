"""Attempts that were given back unrun are counted apart, so that an attempt's number is never used again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the count; what an older Leyden released had its number taken back, and counts as none."""
    op.add_column("rollouts", sa.Column("released", sa.Integer, nullable=False, server_default="0"))
