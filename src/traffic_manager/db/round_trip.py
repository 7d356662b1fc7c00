"""Several statements to PostgreSQL and back in one round trip, by libpq's pipeline mode.

psycopg's own pipeline waits, and so gives the interpreter lock away, at every statement: beside a busy event loop
each of those waits costs a turn. Here it is one wait a trip. Statements are prepared once for each connection, unless
psycopg is told not to keep any prepared.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from traffic_manager.db.session import Row

Connection = psycopg.Connection[tuple[Any, ...]]  # Any: a row's columns are of several types


class Command(NamedTuple):
    """A statement with `:name` parameters, and their values."""

    statement: str
    parameters: Mapping[str, str | int | None]


_names: WeakKeyDictionary[Connection, dict[str, bytes]] = WeakKeyDictionary()
_numbers = count()


def round_trip(
    connection: Connection, commands: Sequence[Command], afterwards: Command | None = None
) -> list[PGresult]:
    """Return the result of each of *commands*, done in their order, and then of *afterwards*, which may fail.
    Raises what the first other that fails raises; those after it are not done then."""
    prepared = _names.setdefault(connection, {})
    sent = [*commands, afterwards] if afterwards else commands
    try:
        return _round_trip(connection, sent, len(commands), prepared)
    except errors.InvalidSqlStatementName:
        # psycopg drops all that is prepared on a connection after a rollback of its own. Nothing was done: the
        # first statement has failed, and those behind it were skipped.
        prepared.clear()
        return _round_trip(connection, sent, len(commands), prepared)


def rows_of(connection: Connection, result: PGresult) -> list[Row]:
    """Return the rows of a query's *result*."""
    transformer = Transformer(connection)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def _round_trip(
    connection: Connection, commands: Sequence[Command], required: int, prepared: dict[str, bytes]
) -> list[PGresult]:
    """Do *commands*, of which the first *required* must not fail."""
    pgconn = connection.pgconn
    keeps_prepared = connection.prepare_threshold is not None
    pgconn.enter_pipeline_mode()
    try:
        new = _prepare(pgconn, commands, prepared) if keeps_prepared else {}
        _send(pgconn, commands, prepared | new)
        received = list(_results(pgconn))
    finally:
        with suppress(psycopg.OperationalError):  # broken in the middle: it says so already
            pgconn.exit_pipeline_mode()
    results = received[len(new) :]
    for result in (*received[: len(new)], *results[:required]):
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, connection.info.encoding)
    prepared |= new
    return results


def _prepare(pgconn: PGconn, commands: Sequence[Command], prepared: dict[str, bytes]) -> dict[str, bytes]:
    """Queue the preparation of those that are new; return their names."""
    new: dict[str, bytes] = {}
    for statement, _ in commands:
        if statement not in prepared and statement not in new:
            new[statement] = b"tm_%d" % next(_numbers)
            pgconn.send_prepare(new[statement], _numbered(statement)[0])
    return new


def _send(pgconn: PGconn, commands: Sequence[Command], names: dict[str, bytes]) -> None:
    for statement, parameters in commands:
        text, order = _numbered(statement)
        values = [_text(parameters[name]) for name in order]
        if name := names.get(statement):
            pgconn.send_query_prepared(name, values)
        else:
            pgconn.send_query_params(text, values)
    pgconn.pipeline_sync()


def _results(pgconn: PGconn) -> Iterator[PGresult]:
    """Yield what the server answers until it is in step again."""
    poll = select.poll()  # select() fails above 1,023 open files
    while pgconn.flush():
        # Read as well: a server whose answers nobody reads would stop reading us.
        poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
        if poll.poll()[0][1] & select.POLLIN:
            pgconn.consume_input()
    poll.register(pgconn.socket, select.POLLIN)
    while True:
        while pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:  # the end of one command's results, or of all
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError("the connection broke in a round trip")
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return
        yield result


@cache
def _numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """Return *statement* with `$1`, `$2`, ... for its parameters, and their names in that order."""
    names = tuple(dict.fromkeys(re.findall(r"(?<!:):([a-z_]+)", statement)))
    numbered = re.sub(r"(?<!:):([a-z_]+)", lambda found: f"${names.index(found[1]) + 1}", statement)
    return numbered.encode(), names


def _text(value: str | int | None) -> bytes | None:
    return None if value is None else str(value).encode()
