"""One way to run a statement on either driver: `:name` parameters in, tuples out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

Row = tuple[Any, ...]  # Any: a row's columns are of several types, and the store names them


class Cursor(Protocol):
    """What we use of a DB-API cursor."""

    rowcount: int

    def execute(self, statement: str, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def executemany(self, statement: str, parameters: Any, /) -> Any:
        """Run one statement for many parameter sets."""

    def fetchall(self) -> list[Row]:
        """Return all rows that are left."""

    def fetchmany(self, size: int, /) -> list[Row]:
        """Return the next rows."""

    def close(self) -> None:
        """Free the cursor."""


class Session:
    """Runs statements on one connection and counts them. Not for two threads at once."""

    def __init__(
        self, cursor: Callable[[], Cursor], adapt: Callable[[str], str], counted: Callable[[], None]
    ):
        self._cursor = cursor
        self._adapt = adapt
        self._counted = counted
        # In a transaction: the revision to tell listeners of once it is committed.
        self.hinted_revision: int | None = None

    def rows(self, statement: str, /, **parameters: object) -> list[Row]:
        """Run a query and return its rows."""
        cursor = self._run(statement, parameters)
        try:
            return cursor.fetchall()
        finally:
            cursor.close()

    def row(self, statement: str, /, **parameters: object) -> Row | None:
        """Run a query and return its first row, None if it has none."""
        found = self.rows(statement, **parameters)
        return found[0] if found else None

    def stream(self, statement: str, /, size: int = 5_000, **parameters: object) -> Iterator[list[Row]]:
        """Run a query and yield its rows in lists of up to *size*."""
        cursor = self._run(statement, parameters)
        try:
            while block := cursor.fetchmany(size):
                yield block
        finally:
            cursor.close()

    def run(self, statement: str, /, **parameters: object) -> int:
        """Run a statement and return how many rows it touched."""
        cursor = self._run(statement, parameters)
        touched = cursor.rowcount
        cursor.close()
        return touched

    def run_many(self, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Run a statement once for each of *rows*."""
        if not rows:
            return
        self._counted()
        cursor = self._cursor()
        cursor.executemany(self._adapt(statement), rows)
        cursor.close()

    def _run(self, statement: str, parameters: Mapping[str, object]) -> Cursor:
        self._counted()
        cursor = self._cursor()
        cursor.execute(self._adapt(statement), parameters)
        return cursor


@lru_cache(1024)
def pyformat(statement: str) -> str:
    """Return *statement* with `%(name)s` for `:name`, as psycopg wants it; `::` casts stay."""
    return re.sub(r"(?<!:):([a-z_][a-z0-9_]*)", r"%(\1)s", statement)
