"""Limits in the database, each change of one also in the log: the `LimitStore` of the rules of access."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from traffic_manager.access.ports import LimitAction, LimitSet
from traffic_manager.db.other_changes import OtherChanges, changing
from traffic_manager.db.pool import Database
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.routing.chain import LIMIT_KIND
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Claim, Head, Limit
from traffic_manager.routing.receipts import head_as_text, head_of_text

_COLUMNS = "l.subject, l.name, l.resolves, l.writes, l.lists, l.routes, l.keys"
_LIMITS = f"""select {HEAD_COLUMNS}, l.* from meta m left join (
    select {_COLUMNS} from limits l) l on true order by l.subject, l.name"""
# These three are served by the primary key of limits.
_LIMIT = f"select {_COLUMNS} from limits l where l.subject = :subject and l.name = :name"
_PUT = """insert into limits (subject, name, resolves, writes, lists, routes, keys)
    values (:subject, :name, :resolves, :writes, :lists, :routes, :keys)
    on conflict (subject, name) do update set resolves = excluded.resolves, writes = excluded.writes,
    lists = excluded.lists, routes = excluded.routes, keys = excluded.keys"""
_REMOVE = "delete from limits where subject = :subject and name = :name"


class SqlLimitStore:
    """The limits over either engine."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def limits(self) -> tuple[Head, Sequence[Limit]]:
        """Return all limits that are set, in the order of subjects and names, as they are at the head now."""
        with self._database.reading() as session:
            rows = session.rows(_LIMITS)
        return Head(*only(rows[0] if rows else None)[:3]), [Limit(*row[3:]) for row in rows if row[3]]

    def put(self, limit: Limit, author: Author, claim: Claim | None = None) -> LimitSet:
        """Set *limit*, whose figures replace those that were set; without any nothing is set any more. No change is
        made if all is so already."""
        with changing(self._database, LIMIT_KIND, author, claim) as changes:
            if changes.done is not None:
                return LimitSet(head_of_text(changes.done), is_replay=True)
            row = changes.session.row(_LIMIT, subject=limit.subject, name=limit.name)
            unset = Limit(limit.subject, limit.name)
            before = Limit(*row) if row else unset
            if limit != before:
                _write(changes, limit, is_set=limit != unset)
            changes.keep(head_as_text(changes.head_after))
            return LimitSet(changes.head_after)


def _write(changes: OtherChanges, limit: Limit, *, is_set: bool) -> None:
    if is_set:
        changes.session.run(_PUT, **asdict(limit))
    else:
        changes.session.run(_REMOVE, subject=limit.subject, name=limit.name)
    action = LimitAction.SET if is_set else LimitAction.REMOVED
    changes.note(action.value, is_set, _detail(limit))


def _detail(limit: Limit) -> Mapping[str, object]:
    return {name: figure for name, figure in asdict(limit).items() if figure is not None}
