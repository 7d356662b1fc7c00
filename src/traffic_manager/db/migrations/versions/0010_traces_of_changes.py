"""To which traces the newest changes belong, where they belong to one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "change_traces",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("traceparent", sa.Text, nullable=False),
        sa.Column("tracestate", sa.Text),
    )
