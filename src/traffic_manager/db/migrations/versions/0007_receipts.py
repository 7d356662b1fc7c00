"""Receipts of requests that are to be done once, though they are sent again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "receipts",
        sa.Column("principal", _word, primary_key=True),
        sa.Column("idempotency_key", _word, primary_key=True),
        sa.Column("request", sa.LargeBinary(32), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_receipts_made_at", "receipts", ["made_at"])
