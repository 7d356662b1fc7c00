"""What Kafka refuses for good: the table of events that were set aside, to be sent again by command."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "events_set_aside",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_aside_at", sa.BigInteger, nullable=False),
    )
