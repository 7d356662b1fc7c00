"""The whole log as lines of JSON, of every kind of change: `traffic-manager audit export`.

With `chain` and `chain_version` in each line, whoever has the lines can compute the digests without this program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson

from traffic_manager.db.pool import Database
from traffic_manager.db.session import Row
from traffic_manager.routing.model import rfc3339

_COLUMNS = (
    *("revision", "batch_end", "kind", "tenant", "service", "env", "version", "action", "url", "is_active"),
    *("previous", "actor", "reason", "correlation_id", "occurred_at", "detail", "address", "chain"),
    "chain_version",
)
# Served by the primary key of changes.
_PAGE = f"select {', '.join(_COLUMNS)} from changes where revision > :after order by revision limit :size"
_PAGE_CHANGES = 5_000


def log_lines(database: Database, after: int) -> Iterator[bytes]:
    """Yield the changes after revision *after* in their order, a line each. Page by page, over a connection like the
    follower's. Raises SourceUnavailable."""
    with closing(database.connect()) as connection:
        while True:
            with connection.reading() as session:
                rows = session.rows(_PAGE, after=after, size=_PAGE_CHANGES)
            yield from map(_line, rows)
            if len(rows) < _PAGE_CHANGES:
                return
            after = rows[-1][0]


def _line(row: Row) -> bytes:
    change = dict(zip(_COLUMNS, row, strict=True))
    change["is_active"] = bool(change["is_active"])
    # The digest covers the number; the text is for people.
    change["occurred"] = _when(change["occurred_at"])
    # Bytes, such as the digests, in hex: somebody may have put others where we never do.
    return orjson.dumps(change, default=bytes.hex, option=orjson.OPT_APPEND_NEWLINE)


def _when(microseconds: Any) -> str | None:  # Any: whatever a row holds
    """Return the time as text, None for what is none: it is exported as it stands, for whoever looks into it."""
    try:
        return rfc3339(microseconds)
    except (TypeError, ValueError, OverflowError):
        return None
