"""Checks the database against its own log: `traffic-manager verify`.

The log is right if its revisions follow each other without a gap and each digest follows from the change and the
digest before it. The routes are right if each is as its last change left it, and no others are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from traffic_manager.db.pool import Database
from traffic_manager.db.session import Row
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.errors import Busy
from traffic_manager.routing.chain import CHAIN_VERSION, ROUTE_KIND, link
from traffic_manager.routing.model import Action
from traffic_manager.routing.ports import Head

PAGE_CHANGES = 5_000
# Whoever repairs a database begins with the first ones.
MAX_FINDINGS = 100

_START = f"select {HEAD_COLUMNS}, m.compacted_revision, m.compacted_chain from meta m"
_ROUTES = "select tenant, service, env, version, url, is_active, revision from routes"
# Served by the primary key of changes; the boundary with them, for compaction may run meanwhile.
_PAGE = """select m.compacted_revision, c.* from meta m left join (
    select chain, chain_version, revision, batch_end, kind, tenant, service, env, version, action, url,
      is_active, previous, actor, reason, correlation_id, occurred_at, detail from changes
    where revision > :after and revision <= :head order by revision limit :size) c on true order by c.revision"""

_Name = tuple[str, str, str, str]


class _State(NamedTuple):
    """A route as its row has it, or as a change left it."""

    url: str | None
    is_active: bool
    revision: int


class _Entry(NamedTuple):
    """A change of the log. *columns* are those that the digest covers in both versions of the chain."""

    chain: bytes
    chain_version: int
    columns: list[Any]  # Any: a row's columns are of several types
    detail: str | None

    @property
    def revision(self) -> int:
        return int(self.columns[0])


@dataclass
class Verification:
    """What was checked, up to *head*, and every *finding* as a sentence, at most MAX_FINDINGS of them."""

    head: Head
    compacted_revision: int
    changes: int = 0
    routes: int = 0
    findings: list[str] = field(default_factory=list)

    def found(self, finding: str) -> None:
        """Take note of what is wrong."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


def verify(database: Database, progress: Callable[[int], None] = lambda _: None) -> Verification:
    """Return what differs in *database*, which may be in use meanwhile. *progress* is told how many changes have
    been checked. Raises SourceUnavailable."""
    start, routes = _snapshot(database)
    head = Head(*start[:3])
    told = Verification(head, start[3], routes=len(routes))
    _check_log(database, told, start[4], _Replay(routes, told), progress)
    return told


def _snapshot(database: Database) -> tuple[Row, dict[_Name, _State]]:
    """Return the row of `meta` with the head, and all routes of the same moment."""
    connection = database.connect()
    try:
        with connection.snapshot() as session:
            start = only(session.row(_START))
            blocks = session.stream(_ROUTES)
            return start, {row[:4]: _State(row[4], bool(row[5]), row[6]) for block in blocks for row in block}
    finally:
        connection.close()


def _check_log(
    database: Database, told: Verification, chain: bytes, replay: _Replay, progress: Callable[[int], None]
) -> None:
    expected = told.compacted_revision + 1
    for entry in _log(database, told):
        if entry.revision != expected:
            told.found(f"revisions {expected} to {entry.revision - 1} are missing from the log")
        elif _link(chain, entry) != entry.chain:
            told.found(f"revision {expected}: its digest does not follow from it and the digest before it")
        replay.take(entry)
        chain, expected = entry.chain, entry.revision + 1
        told.changes += 1
        if told.changes % PAGE_CHANGES == 0:
            progress(told.changes)
    if expected <= told.head.revision:
        told.found(f"revisions {expected} to {told.head.revision} are missing from the log")
    replay.end()


def _log(database: Database, told: Verification) -> Iterator[_Entry]:
    """Yield the changes up to the head. Page by page: one snapshot for all would hold back vacuum for long."""
    after = told.compacted_revision
    while True:
        with database.reading() as session:
            rows = session.rows(_PAGE, after=after, head=told.head.revision, size=PAGE_CHANGES)
        if only(rows[0] if rows else None)[0] > after:
            raise Busy("changes were forgotten while they were being checked; verify again")
        entries = [_entry(row[1:]) for row in rows if row[1] is not None]
        if not entries:
            return
        yield from entries
        after = entries[-1].revision


def _entry(row: Row) -> _Entry:
    columns = list(row[2:17])
    columns[9] = bool(columns[9])
    return _Entry(bytes(row[0]), row[1], columns, row[17])


def _link(chain: bytes, entry: _Entry) -> bytes:
    columns = entry.columns if entry.chain_version == CHAIN_VERSION else [*entry.columns, entry.detail]
    return link(chain, columns)


class _Replay:
    """Compares *routes* with what the changes, taken in order, make of them."""

    def __init__(self, routes: dict[_Name, _State], told: Verification) -> None:
        self._routes = routes
        self._told = told
        # Only of routes that differ, or are gone: the rest agree as soon as their last change is taken.
        self._last: dict[_Name, _State | None] = {}
        self._agreeing: set[_Name] = set()

    def take(self, entry: _Entry) -> None:
        """Take the next change of the log."""
        revision, _, kind, *rest = entry.columns
        if kind != ROUTE_KIND:
            return
        name: _Name = (rest[0], rest[1], rest[2], rest[3])
        action, url, is_active = rest[4:7]
        state = None if action == Action.DELETED else _State(url, is_active, revision)
        if self._routes.get(name) == state:
            self._last.pop(name, None)
            self._agreeing.add(name)
        else:
            self._last[name] = state
            self._agreeing.discard(name)

    def end(self) -> None:
        """Tell of every route that is not as its last change left it."""
        for name, state in self._last.items():
            self._told.found(_difference(name, self._routes.get(name), state))
        for name, row in self._routes.items():
            is_kept = row.revision > self._told.compacted_revision
            if is_kept and name not in self._agreeing and name not in self._last:
                self._told.found(f"route {'/'.join(name)}: no change in the log made it")


def _difference(name: _Name, row: _State | None, state: _State | None) -> str:
    route = f"route {'/'.join(name)}"
    if row is None:
        return f"{route}: is missing; its last change left {_shown(state)}"
    if state is None:
        return f"{route}: is there as {_shown(row)}, but its last change deleted it"
    return f"{route}: is {_shown(row)}; its last change left {_shown(state)}"


def _shown(state: _State | None) -> str:
    if state is None:
        return "nothing"
    return f"{state.url} ({'active' if state.is_active else 'inactive'}, revision {state.revision})"
