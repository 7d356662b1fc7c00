"""Run by Alembic: upgrades over the connection that `db.migrate` hands in, or writes down what it would run there.

One transaction for each version, unless one is open already: so no table stays locked while others are changed.
"""

from __future__ import annotations

from alembic import context

from traffic_manager.db.schema import metadata

_handed_in = context.config.attributes

if context.is_offline_mode():
    context.configure(
        dialect_name=_handed_in["dialect"],
        target_metadata=metadata,
        literal_binds=True,
        transaction_per_migration=True,
        transactional_ddl=True,
    )
else:
    context.configure(
        connection=_handed_in["connection"],
        target_metadata=metadata,
        render_as_batch=True,
        transaction_per_migration=True,
        transactional_ddl=True,
    )
with context.begin_transaction():
    context.run_migrations()
