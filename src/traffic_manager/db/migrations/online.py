"""What a migration needs to leave a large table usable while it works."""

from __future__ import annotations

from typing import Any

from alembic import op


def build_index(name: str, table: str, columns: list[str], **options: Any) -> None:  # Any: options of Index
    """Build an index; others may write to *table* meanwhile. Outside any transaction, in which PostgreSQL would
    make them wait: so nothing else belongs into the migration."""
    context = op.get_context()
    if context.dialect.name != "postgresql":
        op.create_index(name, table, columns, **options)
        return
    with context.autocommit_block():
        # What a build leaves behind that was broken off is not valid, and in the way.
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
