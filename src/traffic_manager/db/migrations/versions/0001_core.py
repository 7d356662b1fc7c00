"""The core tables: routes, changes, meta, leases."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_name = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables and begin the first epoch."""
    _make_routes()
    _make_changes()
    _make_meta()
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("published_revision", sa.BigInteger, nullable=False),
    )


def _make_routes() -> None:
    op.create_table(
        "routes",
        sa.Column("tenant", _name, primary_key=True),
        sa.Column("service", _name, primary_key=True),
        sa.Column("env", _name, primary_key=True),
        sa.Column("version", _name, primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_routes_service", "routes", ["service", "tenant", "env", "version"])
    op.create_index("ix_routes_env", "routes", ["env", "tenant", "service", "version"])
    op.create_index("ix_routes_version", "routes", ["version", "tenant", "service", "env"])


def _make_changes() -> None:
    op.create_table(
        "changes",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("batch_end", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        *(sa.Column(name, _name) for name in ("tenant", "service", "env", "version")),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("url", sa.Text),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("previous", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("chain", sa.LargeBinary(32), nullable=False),
        sa.Column("chain_version", sa.Integer, nullable=False),
    )
    op.create_index("ix_changes_key", "changes", ["tenant", "service", "env", "version", "revision"])


def _make_meta() -> None:
    meta = op.create_table(
        "meta",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("epoch_number", sa.Integer, nullable=False),
        sa.Column("compacted_revision", sa.BigInteger, nullable=False),
        sa.Column("compacted_chain", sa.LargeBinary(32), nullable=False),
    )
    is_postgres = op.get_context().dialect.name == "postgresql"
    no_chain = "decode(repeat('00', 32), 'hex')" if is_postgres else "zeroblob(32)"
    first = {"id": 1, "epoch": uuid.uuid4().hex, "epoch_number": 1, "compacted_revision": 0}
    # As text, and not as bytes: the statement is shown to people, too.
    op.execute(meta.insert().values(**first, compacted_chain=sa.literal_column(no_chain)))
