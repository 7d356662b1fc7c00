"""Whom the relay has told of all routes: in which epoch, and in which topic, which may be deleted and made again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Of a history that has forked before, all is told once more: nobody knows that it was."""
    op.add_column("leases", sa.Column("told_epoch_number", sa.Integer, nullable=False, server_default="1"))
    op.add_column("leases", sa.Column("told_topic", sa.Text))
    op.add_column("leases", sa.Column("told_partitions", sa.Integer))
