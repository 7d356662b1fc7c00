"""Forgets the oldest changes: `traffic-manager compact`. Never runs by itself.

What is kept is always a whole piece of history: the boundary moves in the same transaction as the rows go, and
with it the digest there, so that the chain over the rest can still be checked and a reader below gets a 410.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from traffic_manager.db.pool import Database
from traffic_manager.db.session import Row, Session
from traffic_manager.db.store import only
from traffic_manager.routing.leases import RELAY_LEASE

# These newest changes stay however old they are: followers, streams and caches go on from them.
KEPT_CHANGES = 100_000
# So many rows go in one transaction: 5,000 hold no lock for long.
STEP_CHANGES = 5_000

# Served by the primary keys of meta, changes and leases.
_BOUNDS = """select m.compacted_revision,
    coalesce((select revision from changes order by revision desc limit 1), 0),
    (select published_revision from leases where name = :relay) from meta m"""
# Served by the primary key of changes.
_OLDEST = """select revision, batch_end, occurred_at, chain from changes
    where revision > :after order by revision limit :size"""
_MOVE = """update meta set compacted_revision = :upto, compacted_chain = :chain
    where compacted_revision = :after"""
_FORGET = "delete from changes where revision <= :upto"


@dataclass(frozen=True)
class Compaction:
    """What `compact` did: changes up to *compacted_revision* are gone, *forgotten* of them in this run."""

    compacted_revision: int
    forgotten: int


def compact(
    database: Database, made_before: int, kept: int = KEPT_CHANGES, *, has_kafka: bool = False
) -> Compaction:
    """Forget changes made before *made_before* (microseconds since 1970), but none of the newest *kept* (at least
    1) and none that the relay has still to send: with *has_kafka* none at all before it has sent any. Raises
    SourceUnavailable; what was done until then is whole."""
    forgotten = 0
    while step := _step(database, made_before, kept, has_kafka):
        forgotten += step
    with database.reading() as session:
        boundary = _bounds(session)[0]
    return Compaction(boundary, forgotten)


def _step(database: Database, made_before: int, kept: int, has_kafka: bool) -> int:
    """Forget up to STEP_CHANGES and return how many."""
    with database.writing() as session:
        compacted, head, published = _bounds(session)
        # A lease that was never taken has no row: nothing is sent, or nothing yet.
        sent_upto = published if published is not None else 0 if has_kafka else head
        limit = min(head - kept, sent_upto)
        rows = session.rows(_OLDEST, after=compacted, size=STEP_CHANGES)
        last = _last_to_go([row for row in rows if row[0] <= limit], made_before)
        if last is None:
            return 0
        upto, chain = last[0], last[3]
        if session.run(_MOVE, upto=upto, chain=chain, after=compacted) != 1:
            return 0  # another compaction was quicker, and goes on
        session.run(_FORGET, upto=upto)
        return int(upto - compacted)


def _last_to_go(rows: Sequence[Row], made_before: int) -> Row | None:
    """Return the last of the oldest rows that are old enough and end a batch: no batch is kept in part."""
    last = None
    for row in rows:
        if row[2] >= made_before:
            break
        if row[0] == row[1]:
            last = row
    return last


def _bounds(session: Session) -> Row:
    return only(session.row(_BOUNDS, relay=RELAY_LEASE))
