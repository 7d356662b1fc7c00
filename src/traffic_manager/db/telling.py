"""The routes as they are told again, each as the last change of it."""

from __future__ import annotations

from collections.abc import Sequence

from traffic_manager.db.pool import Database
from traffic_manager.db.session import Row
from traffic_manager.db.store import HEAD_COLUMNS, SqlStore, only
from traffic_manager.routing.model import Action, Change, RouteKey
from traffic_manager.routing.ports import Head

# Who acts where it is no longer kept who did.
_UNKNOWN = "traffic-manager"

# Served by the primary keys of routes and changes.
_PAGE = f"""select {HEAD_COLUMNS}, r.* from meta m left join (
    select r.tenant, r.service, r.env, r.version, r.revision, r.url, r.is_active,
      coalesce(c.occurred_at, r.updated_at) as occurred_at, c.batch_end, c.action, c.actor, c.reason,
      c.correlation_id, c.previous
    from routes r left join changes c on c.revision = r.revision
    where (r.tenant, r.service, r.env, r.version) > (:tenant, :service, :env, :version)
    order by r.tenant, r.service, r.env, r.version limit :size) r on true
    order by r.tenant, r.service, r.env, r.version"""


class SqlTelling:
    """Reads the routes of either engine."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = SqlStore(database)

    def page(self, after: RouteKey | None, size: int) -> tuple[Head, Sequence[Change]]:
        """Return the head, and up to *size* routes above *after* as the last change of each."""
        above = after or RouteKey.known("", "", "", "")
        with self._database.reading() as session:
            rows = session.rows(_PAGE, size=size, **above._asdict())
        head = Head(*only(rows[0] if rows else None)[:3])
        return head, [_last_change(row[3:]) for row in rows if row[3] is not None]

    def missing(self, keys: Sequence[RouteKey]) -> tuple[Head, Sequence[RouteKey]]:
        """Return the head, and those of *keys* that have no route there."""
        found = self._store.look_up(keys)
        return found.head, [key for key in keys if key not in found.routes]


def _last_change(row: Row) -> Change:
    """Return the change that made the route what it is; what was forgotten with it is made up."""
    revision, url, is_active, occurred_at, batch_end, action, actor, reason, correlation_id, previous = row[
        4:
    ]
    return Change(
        revision=revision,
        batch_end=batch_end or revision,
        key=RouteKey.known(*row[:4]),
        action=Action(action or Action.UPDATED),
        url=url,
        is_active=bool(is_active),
        previous=previous,
        actor=actor or _UNKNOWN,
        reason=reason,
        correlation_id=correlation_id or _UNKNOWN,
        occurred_at=occurred_at,
    )
