"""An index of the inactive routes, which are few: a list of them went through all others, 0.6 s of a million."""

from __future__ import annotations

import sqlalchemy as sa

from traffic_manager.db.migrations.online import build_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build it, while others write."""
    build_index(
        "ix_routes_inactive",
        "routes",
        ["tenant", "service", "env", "version"],
        postgresql_where=sa.text("not is_active"),
        sqlite_where=sa.text("not is_active"),
    )
