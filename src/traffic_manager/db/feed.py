"""The log of changes as a follower reads it: the `ChangeFeed` of the rules, over a connection of its own."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import structlog

from traffic_manager.db.change_traces import traces_of
from traffic_manager.db.pool import Database, FeedConnection, wait_readable
from traffic_manager.db.rows import CHANGE_COLUMNS, change_of, good_entries
from traffic_manager.db.session import Row, Session
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.errors import RevisionGap
from traffic_manager.routing.chain import KEY_KIND, LIMIT_KIND, ROUTE_KIND
from traffic_manager.routing.ports import Head, Limit, Pulse, Slice, StoredKey, Table
from traffic_manager.routing.table import RouteTable

# One statement for each poll, and for each change; all subqueries go over the primary key of changes.
_PULSE_COLUMNS = f"""{HEAD_COLUMNS}, coalesce((select chain from changes where revision = :at),
    case when m.compacted_revision = :at then m.compacted_chain end), m.compacted_revision"""
_SLICE = f"""select c.kind, c.chain, {CHANGE_COLUMNS} from changes c
    where c.revision > :at order by c.revision limit :size"""
# With the traces of changes, over the primary key of change_traces.
_TRACED_SLICE = f"""select c.kind, c.chain, {CHANGE_COLUMNS}, t.traceparent, t.tracestate from changes c
    left join change_traces t on t.revision = c.revision
    where c.revision > :at order by c.revision limit :size"""
_PULSE = f"select {_PULSE_COLUMNS} from meta m"
_NEWS = f"select {_PULSE_COLUMNS}, c.* from meta m left join ({_SLICE}) c on true order by c.revision"

_ACTIVE = "select tenant || '/' || service || '/' || env || '/' || version, url, revision from routes"
_COUNT = "select count(*) from routes where is_active"
_RECENT = f"""select revision, tenant || '/' || service || '/' || env || '/' || version from changes
    where revision > :floor and kind = '{ROUTE_KIND}' order by revision"""

# The digests are read here alone, for those who check keys. All at once: they are few, and seldom change.
_KEYS = "select id, owner, digest, grants, expires_at from api_keys where revoked_at is null"

# All at once, too: most tenants go by the settings.
_LIMITS = "select subject, name, resolves, writes, lists, routes, keys from limits"

_LEAVE_EPOCH = """update meta set epoch = :begun,
    epoch_number = 1 + case when epoch_number < :known then :known else epoch_number end where epoch = :left"""

log = structlog.get_logger(__name__)


class SqlFeed:
    """The feed of either engine. For one thread; opens its connection when first used, and again after an
    error. *bad_row* is called for each row that cannot be a route; such a row is passed over. *listens*: hear
    the hints of writers."""

    def __init__(self, database: Database, bad_row: Callable[[], None], *, listens: bool = False) -> None:
        self._database = database
        self._bad_row = bad_row
        self._listens = listens
        self._connection: FeedConnection | None = None

    def pulse(self, at: int, limit: int = 0) -> Pulse:
        """Return the head, the digest at revision *at* and whole batches of changes after it."""
        with self._using() as connection, connection.reading() as session:
            rows = session.rows(_NEWS, at=at, size=limit) if limit else session.rows(_PULSE, at=at)
        *head, chain, compacted_revision = only(rows[0] if rows else None)[:5]
        # Without a digest, what follows is of another past, or has lost its beginning to compaction.
        following = [row[5:] for row in rows if limit and chain is not None and row[5] is not None]
        return Pulse(Head(*head), chain, self._slice_of(following, at), compacted_revision)

    def slice(self, after: int, limit: int) -> Slice | None:
        """Return whole batches of changes after *after*; *limit* must not be less than the largest batch."""
        with self._using() as connection, connection.reading() as session:
            rows = session.rows(_TRACED_SLICE, at=after, size=limit)
        found = self._slice_of([row[:-2] for row in rows], after)
        return found and replace(found, traces=traces_of((row[2], *row[-2:]) for row in rows))

    def table(self, max_routes: int, window: int) -> Table:
        """Return the table of one moment, at most *max_routes* of its routes, with the last *window* changes."""
        with _collector_off(), self._using() as connection, connection.snapshot() as session:
            head = Head(*only(session.row(_PULSE, at=0))[:3])
            chain, compacted_revision = only(session.row(_PULSE, at=head.revision))[3:]
            entries, beyond = self._entries(session, max_routes) if max_routes else (RouteTable(), 0)
            floor = max(compacted_revision, head.revision - window)
            recent = [(r[0], r[1]) for r in session.rows(_RECENT, floor=floor) if r[1]]
        return Table(head, chain or b"", entries, recent, floor, beyond)

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        """Return the revisions that hints name, as soon as one comes, *bell* is readable or time is up."""
        if self._connection is None:
            wait_readable(timeout_s, bell)
            return ()
        with self._using() as connection:
            return connection.wait(bell, timeout_s)

    def probe(self) -> None:
        """Send a hint of revision 0 over another connection: over our own it would always come."""
        if statement := self._database.dialect.hint:
            with self._database.reading() as session:
                session.row(statement, revision="0")

    def keys(self) -> Sequence[StoredKey]:
        """Return the keys that are not revoked, as they are now: perhaps newer than the last slice, never older."""
        with self._using() as connection, connection.reading() as session:
            return [StoredKey(*row) for row in session.rows(_KEYS)]

    def limits(self) -> Sequence[Limit]:
        """Return all that is set as limits now: perhaps newer than the last slice, never older."""
        with self._using() as connection, connection.reading() as session:
            return [Limit(*row) for row in session.rows(_LIMITS)]

    def leave_epoch(self, epoch: str, known_number: int = 0) -> None:
        """Begin another epoch, unless somebody has."""
        with self._using() as connection, connection.reading() as session:
            session.run(_LEAVE_EPOCH, left=epoch, begun=uuid.uuid4().hex, known=known_number)

    def close(self) -> None:
        """Give the connection back; the next call opens another."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _entries(self, session: Session, max_routes: int) -> tuple[RouteTable, int]:
        """Return at most *max_routes* active routes, and how many others there are."""
        active = only(session.row(_COUNT))[0]
        entries = RouteTable(min(active, max_routes))
        for block in session.stream(f"{_ACTIVE} where is_active limit :most", most=max_routes):
            good = good_entries(block)
            entries.load(good)
            self._pass_over("routes", len(block) - len(good))
        return entries, max(0, active - max_routes)

    def _slice_of(self, rows: list[Row], after: int) -> Slice | None:
        """Return the slice of *rows*, which begin with kind and chain; None if there are none."""
        _check_contiguous(rows, after)
        if not rows:
            return None
        whole = _whole_batches(rows)
        found = [change_of(row[2:]) for row in whole if row[0] == ROUTE_KIND]
        changes = [change for change in found if change]
        self._pass_over("changes", len(found) - len(changes), after=after, upto=whole[-1][2])
        kinds = {row[0] for row in whole}
        return Slice(
            upto=whole[-1][2],
            chain=whole[-1][1],
            changes=changes,
            has_keys=KEY_KIND in kinds,
            has_limits=LIMIT_KIND in kinds,
        )

    def _pass_over(self, table: str, rows: int, **where: int) -> None:
        """Count and tell of *rows* that break the rules of *table*, if there are any."""
        for _ in range(rows):
            self._bad_row()
        if rows:
            log.error("bad_rows", table=table, rows=rows, **where)

    @contextmanager
    def _using(self) -> Iterator[FeedConnection]:
        connection = self._connection = self._connection or self._connected()
        try:
            yield connection
        except Exception:
            self.close()  # whatever state the connection is in, the next call starts with a new one
            raise

    def _connected(self) -> FeedConnection:
        connection = self._database.connect()
        if self._listens:
            connection.listen()
        return connection


@contextmanager
def _collector_off() -> Iterator[None]:
    """Look for no cycles among a million rows: there are none, and it takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_contiguous(rows: list[Row], after: int) -> None:
    for expected, row in enumerate(rows, after + 1):
        if row[2] != expected:
            raise RevisionGap(expected, row[2])


def _whole_batches(rows: list[Row]) -> list[Row]:
    """Return *rows* without the beginning of a batch whose end is not among them. As many as are read hold the
    largest batch: without any end there is none that could still come."""
    for count in range(len(rows), 0, -1):
        revision, batch_end = rows[count - 1][2:4]
        if revision == batch_end:
            return rows[:count]
    return rows
