"""From where a change was asked for: a column of the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; no row is touched."""
    op.add_column("changes", sa.Column("address", sa.Text))
