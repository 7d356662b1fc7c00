"""How much tenants and principals may ask for and have, where the settings do not say it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_name = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "limits",
        sa.Column("subject", sa.String(16), primary_key=True),
        sa.Column("name", _name, primary_key=True),
        *(sa.Column(name, sa.BigInteger) for name in ("resolves", "writes", "lists", "routes", "keys")),
    )
