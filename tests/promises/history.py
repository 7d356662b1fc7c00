"""The log as it lies in the database, read without our server, and whether its chain holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from traffic_manager.db.rows import CHANGE_COLUMNS, change_of
from traffic_manager.routing.chain import CHAIN_START, next_link
from traffic_manager.routing.model import Change

_ALL = f"select {CHANGE_COLUMNS}, c.chain from changes c order by c.revision"  # noqa: S608 constants alone


@dataclass(frozen=True)
class History:
    """Changes in their order, each with the digest that was stored with it."""

    changes: Sequence[Change]
    digests: Sequence[bytes]

    def first_broken_link(self) -> int | None:
        """Return the first revision whose digest is not that of its content and its past."""
        digest = CHAIN_START
        for change, stored in zip(self.changes, self.digests, strict=True):
            digest = next_link(digest, change)
            if digest != stored:
                return change.revision
        return None

    def followed_by(self, later: History) -> History:
        """Return this history with what *later* has beyond it; they may overlap."""
        last = self.changes[-1].revision if self.changes else 0
        start = sum(change.revision <= last for change in later.changes)
        return History([*self.changes, *later.changes[start:]], [*self.digests, *later.digests[start:]])


def of_sqlite(path: Path) -> History:
    """Return the history in a file that no server uses."""
    connection = sqlite3.connect(path)
    try:
        return _history(connection.execute(_ALL).fetchall())
    finally:
        connection.close()


def of_postgres(conninfo: str) -> History:
    """Return the history in a PostgreSQL database."""
    with psycopg.connect(conninfo) as connection:
        return _history(connection.execute(_ALL).fetchall())


def integrity_of(path: Path) -> str:
    """Return what SQLite says of its file: `ok`."""
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("pragma integrity_check").fetchone()[0])
    finally:
        connection.close()


def _history(rows: Sequence[tuple[Any, ...]]) -> History:  # Any: columns are of several types
    changes = [change for row in rows if (change := change_of(row[:-1]))]
    assert len(changes) == len(rows), "the log holds a row that is no change"
    return History(changes, [bytes(row[-1]) for row in rows])
