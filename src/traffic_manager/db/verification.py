"""Checks the database against its own log: `traffic-manager verify`.

The log is right if its revisions follow each other without a gap and each digest follows from the change and the
digest before it. The routes are right if each is as its last change left it, and no others are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from traffic_manager.db.pool import Database, FeedConnection
from traffic_manager.db.session import Row
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.errors import Busy
from traffic_manager.routing.chain import (
    ADDRESS_CHAIN_VERSION,
    CHAIN_VERSION,
    DETAIL_CHAIN_VERSION,
    ROUTE_KIND,
    covered,
    link,
)
from traffic_manager.routing.model import Action
from traffic_manager.routing.ports import Head

PAGE_CHANGES = 5_000
# Whoever repairs a database begins with the first ones.
MAX_FINDINGS = 100

_START = f"select {HEAD_COLUMNS}, m.compacted_revision, m.compacted_chain from meta m"
_NOTHING: Mapping[int, bytes] = {}
_ROUTES = "select tenant, service, env, version, url, is_active, revision from routes"
# Served by the primary key of changes; the boundary with them, for compaction may run meanwhile.
_PAGE = """select m.compacted_revision, c.* from meta m left join (
    select chain, chain_version, revision, batch_end, kind, tenant, service, env, version, action, url,
      is_active, previous, actor, reason, correlation_id, occurred_at, detail, address from changes
    where revision > :after and revision <= :head order by revision limit :size) c on true order by c.revision"""
# Served by the primary key of changes.
_CHAIN_AT = """select m.epoch, coalesce((select chain from changes where revision = :revision),
    case when m.compacted_revision = :revision then m.compacted_chain end) from meta m"""

Name = tuple[str, str, str, str]


class State(NamedTuple):
    """A route as its row has it, or as a change left it."""

    url: str | None
    is_active: bool
    revision: int


class _Entry(NamedTuple):
    """A change of the log. *columns* are those that the digest covers in all versions of the chain."""

    chain: bytes
    chain_version: int
    columns: list[Any]  # Any: a row's columns are of several types
    detail: str | None
    address: str | None

    @property
    def is_covered(self) -> bool:
        """Whether the digest covers all that there is: what is beyond it anybody could have written."""
        beyond = {CHAIN_VERSION: (self.detail, self.address), DETAIL_CHAIN_VERSION: (self.address,)}
        known = (*beyond, ADDRESS_CHAIN_VERSION)
        return self.chain_version in known and all(it is None for it in beyond.get(self.chain_version, ()))

    @property
    def revision(self) -> int:
        return int(self.columns[0])


class Check(Protocol):
    """Compares something else with the log, while it is read."""

    def take(self, revision: int, name: Name, state: State | None) -> None:
        """Take the next change of a route; *state* is None after a deletion."""


@dataclass
class Verification:
    """What was checked, up to *head*, and every *finding* as a sentence, at most MAX_FINDINGS of them. *table*: the
    routes at the head; *chain*: the digest there."""

    head: Head
    compacted_revision: int
    table: Mapping[Name, State] = field(repr=False)
    chain: bytes = b""
    changes: int = 0
    # The newest of the known digests that the log still has.
    agreed: int = 0
    findings: list[str] = field(default_factory=list)

    def found(self, finding: str) -> None:
        """Take note of what is wrong."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


def verify(
    database: Database,
    progress: Callable[[int], None] = lambda _: None,
    checks: Sequence[Check] = (),
    known: Mapping[int, bytes] = _NOTHING,
) -> Verification:
    """Return what differs in *database*, which may be in use meanwhile. *progress* is told how many changes have been
    checked, *checks* of each change of a route. *known*: digests that were seen before, by revision. Raises
    SourceUnavailable."""
    start, routes = _snapshot(database)
    told = Verification(Head(*start[:3]), start[3], routes, start[4])
    replay = _Replay(routes, told)
    _check_log(database, told, (replay, *checks), known, progress)
    replay.end()
    _check_known(told, known)
    return told


def check_since(database: Database, revision: int, chain: bytes) -> Verification:
    """Return what differs in the log after *revision*, where the digest was *chain*; the routes are not looked at.
    From 0 on, what was forgotten is passed over. Raises SourceUnavailable."""
    with database.reading() as session:
        start = only(session.row(_START))
    boundary = start[3]
    if boundary and not revision:
        revision, chain = boundary, bytes(start[4])
    told = Verification(Head(*start[:3]), revision, {}, chain)
    if boundary > revision:
        told.found(
            f"revisions {revision + 1} to {boundary} are gone, and nobody looked at them before: "
            "whatever follows could have been written anew"
        )
    elif told.head.revision < revision:
        told.found(f"revision {revision} was there before, and the log ends at {told.head.revision}")
    elif revision and chain_at(database, revision)[1] != chain.hex():
        told.found(f"revision {revision}: its digest was another one before")
    else:
        _check_log(database, told, (), _NOTHING, lambda _: None)
    return told


def chain_at(database: Database, revision: int) -> tuple[str, str | None]:
    """Return the epoch of now, and the digest at *revision* in hex, None if there is none."""
    with database.reading() as session:
        row = session.row(_CHAIN_AT, revision=revision)
    assert row is not None  # noqa: S101 the schema was checked
    return row[0], bytes(row[1]).hex() if row[1] is not None else None


def _snapshot(database: Database) -> tuple[Row, dict[Name, State]]:
    """Return the row of `meta` with the head, and all routes of the same moment."""
    connection = database.connect()
    try:
        with connection.snapshot() as session:
            start = only(session.row(_START))
            blocks = session.stream(_ROUTES)
            return start, {row[:4]: State(row[4], bool(row[5]), row[6]) for block in blocks for row in block}
    finally:
        connection.close()


def _check_log(
    database: Database,
    told: Verification,
    checks: Sequence[Check],
    known: Mapping[int, bytes],
    progress: Callable[[int], None],
) -> None:
    expected = told.compacted_revision + 1
    for entry in _log(database, told):
        if entry.revision != expected:
            told.found(f"revisions {expected} to {entry.revision - 1} are missing from the log")
        elif not _follows(entry, told.chain):
            told.found(f"revision {expected}: its digest does not follow from it and the digest before it")
        _compare(told, entry, known)
        _tell(checks, entry)
        told.chain, expected = entry.chain, entry.revision + 1
        told.changes += 1
        if told.changes % PAGE_CHANGES == 0:
            progress(told.changes)
    if expected <= told.head.revision:
        told.found(f"revisions {expected} to {told.head.revision} are missing from the log")


def _compare(told: Verification, entry: _Entry, known: Mapping[int, bytes]) -> None:
    digest = known.get(entry.revision)
    if digest == entry.chain:
        told.agreed = entry.revision
    elif digest is not None:
        told.found(
            f"revision {entry.revision}: its digest is {entry.chain.hex()}, and was another one before: "
            f"something in revisions {told.agreed + 1} to {entry.revision} is not what it was"
        )


def _check_known(told: Verification, known: Mapping[int, bytes]) -> None:
    for revision in known:
        if revision > told.head.revision:
            told.found(f"revision {revision} was there before, and the log ends at {told.head.revision}")


def _tell(checks: Sequence[Check], entry: _Entry) -> None:
    revision, _, kind, *rest = entry.columns
    if kind != ROUTE_KIND:
        return
    name: Name = (rest[0], rest[1], rest[2], rest[3])
    action, url, is_active = rest[4:7]
    state = None if action == Action.DELETED else State(url, is_active, revision)
    for check in checks:
        check.take(revision, name, state)


def _log(database: Database, told: Verification) -> Iterator[_Entry]:
    """Yield the changes up to the head. Page by page: one snapshot for all would hold back vacuum for long. Over a
    connection like the follower's: of a busy machine a page takes longer than a read of the servers may."""
    with closing(database.connect()) as connection:
        yield from _pages(connection, told)


def _pages(connection: FeedConnection, told: Verification) -> Iterator[_Entry]:
    after = told.compacted_revision
    while True:
        with connection.reading() as session:
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
    # SQLite has no other truth than 1 and 0; what somebody has put there instead must not pass for it.
    columns[9] = bool(columns[9]) if columns[9] in (0, 1) else columns[9]
    chain = bytes(row[0]) if isinstance(row[0], bytes | memoryview) else b""
    return _Entry(chain, row[1], columns, *row[17:19])


def _follows(entry: _Entry, chain: bytes) -> bool:
    """Return whether the digest of *entry* follows from it and *chain*, the one before, and covers all of it."""
    try:
        digest = link(chain, covered(entry.columns, entry.detail, entry.address, entry.chain_version))
    except TypeError:  # a value of a type that we never write: somebody else did
        return False
    return digest == entry.chain and entry.is_covered


class _Replay:
    """Compares *routes* with what the changes, taken in order, make of them."""

    def __init__(self, routes: dict[Name, State], told: Verification) -> None:
        self._routes = routes
        self._told = told
        # Only of routes that differ, or are gone: the rest agree as soon as their last change is taken.
        self._last: dict[Name, State | None] = {}
        self._agreeing: set[Name] = set()

    def take(self, revision: int, name: Name, state: State | None) -> None:
        """Take the next change of the log."""
        if self._routes.get(name) == state:
            self._last.pop(name, None)
            self._agreeing.add(name)
        else:
            self._last[name] = state
            self._agreeing.discard(name)

    def end(self) -> None:
        """Tell of every route that is not as its last change left it."""
        for name, state in self._last.items():
            self._told.found(difference(name, self._routes.get(name), state))
        for name, row in self._routes.items():
            is_kept = row.revision > self._told.compacted_revision
            if is_kept and name not in self._agreeing and name not in self._last:
                self._told.found(f"route {'/'.join(name)}: no change in the log made it")


def difference(name: Name, row: State | None, state: State | None) -> str:
    """Return how *row* is not what the last change left, *state*."""
    route = f"route {'/'.join(name)}"
    if row is None:
        return f"{route}: is missing; its last change left {shown(state)}"
    if state is None:
        return f"{route}: is there as {shown(row)}, but its last change deleted it"
    return f"{route}: is {shown(row)}; its last change left {shown(state)}"


def shown(state: State | None) -> str:
    """Return *state* in words."""
    if state is None:
        return "nothing"
    return f"{state.url} ({'active' if state.is_active else 'inactive'}, revision {state.revision})"
