"""The routes of the benchmarks, and a database full of them in seconds."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from traffic_manager.db.postgres import REVISION_LOCK
from traffic_manager.routing.chain import CHAIN_START, CHAIN_VERSION, columns_of, next_link
from traffic_manager.routing.model import Action, Change, RouteKey

OCCURRED_AT = 1_760_000_000_000_000
_PER_TENANT = 500
_BLOCK = 10_000
_ROUTE_COLUMNS = "tenant, service, env, version, url, is_active, revision, created_at, updated_at"
_CHANGE_COLUMNS = """revision, batch_end, kind, tenant, service, env, version, action, url, is_active, previous,
    actor, reason, correlation_id, occurred_at, chain, chain_version"""

Row = list[Any]  # Any: a row's values are of several types


def key_of(i: int) -> RouteKey:
    """Return the key of the *i*-th route: 500 services for each tenant."""
    return RouteKey.known(f"team-{i // _PER_TENANT}", f"service-{i}", "prod", "v1")


def url_of(i: int) -> str:
    """Return the URL of the *i*-th route."""
    return f"https://service-{i}.team-{i // _PER_TENANT}.example.com/v1"


def resolve_path(i: int) -> str:
    """Return the path that resolves the *i*-th route."""
    tenant, service, env, version = key_of(i)
    return f"/api/v1/routes/resolve?tenant={tenant}&service={service}&env={env}&version={version}"


def path_of(i: int) -> str:
    """Return the path of the *i*-th route."""
    return "/api/v1/routes/" + "/".join(key_of(i))


def spread(count: int, total: int) -> list[int]:
    """Return *count* of *total* routes, evenly spread, in an order that no cache can guess."""
    chosen = [number * total // count for number in range(count)]
    return [chosen[number * 7919 % count] for number in range(count)]


def fill_postgres(environment: Mapping[str, str], count: int) -> None:
    """Put *count* routes, each with the change that created it, into migrated, empty tables."""
    with psycopg.connect(_conninfo(environment)) as connection, connection.cursor() as cursor:
        for routes, changes in _blocks(count):
            for table, columns, rows in (
                ("routes", _ROUTE_COLUMNS, routes),
                ("changes", _CHANGE_COLUMNS, changes),
            ):
                _copy(cursor, table, columns, rows)
    with psycopg.connect(_conninfo(environment), autocommit=True) as connection:
        connection.execute("analyze")
        connection.execute("checkpoint")


def change_postgres(environment: Mapping[str, str], count: int) -> int:
    """Change the first *count* routes in one commit, one revision each, and return the head after it."""
    with psycopg.connect(_conninfo(environment)) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", [REVISION_LOCK])
        cursor.execute("select revision, chain from changes order by revision desc limit 1")
        ((head, chain),) = cursor.fetchall()
        rows = []
        for i in range(count):
            change = _moved(i, head + 1 + i)
            chain = next_link(chain, change)
            rows.append([*columns_of(change), chain, CHAIN_VERSION])
        _copy(cursor, "changes", _CHANGE_COLUMNS, rows)
        cursor.execute(
            """update routes r set url = c.url, revision = c.revision, updated_at = c.occurred_at from changes c
            where c.revision > %s and (r.tenant, r.service, r.env, r.version)
            = (c.tenant, c.service, c.env, c.version)""",
            [head],
        )
        assert cursor.rowcount == count, f"{cursor.rowcount} routes of {count}"
    return int(head) + count


def fill_sqlite(path: Path, count: int) -> None:
    """Do the same to the file of a server that has been stopped."""
    with sqlite3.connect(path) as connection:
        for routes, changes in _blocks(count):
            _insert(connection, "routes", _ROUTE_COLUMNS, routes)
            _insert(connection, "changes", _CHANGE_COLUMNS, changes)
    connection.close()


def _blocks(count: int) -> Iterator[tuple[list[Row], list[Row]]]:
    chain = CHAIN_START
    for first in range(0, count, _BLOCK):
        routes: list[Row] = []
        changes: list[Row] = []
        for i in range(first, min(first + _BLOCK, count)):
            change = _created(i)
            chain = next_link(chain, change)
            routes.append([*change.key, change.url, True, i + 1, OCCURRED_AT, OCCURRED_AT])
            changes.append([*columns_of(change), chain, CHAIN_VERSION])
        yield routes, changes


def _created(i: int) -> Change:
    revision = i + 1
    return Change(
        revision=revision,
        batch_end=revision,
        key=key_of(i),
        action=Action.CREATED,
        url=url_of(i),
        is_active=True,
        previous=None,
        actor="bench",
        reason=None,
        correlation_id="fill",
        occurred_at=OCCURRED_AT,
    )


def _moved(i: int, revision: int) -> Change:
    return _created(i)._replace(
        revision=revision,
        batch_end=revision,
        action=Action.UPDATED,
        url=f"https://burst.example.com/{i}",
        previous=f'{{"url":"{url_of(i)}","is_active":true}}',
    )


def _copy(cursor: psycopg.Cursor[Any], table: str, columns: str, rows: list[Row]) -> None:
    with cursor.copy(f"copy {table} ({columns}) from stdin") as copy:
        copy.write(_as_copy(rows))


def _as_copy(rows: list[Row]) -> bytes:
    text = io.StringIO()
    for row in rows:
        text.write("\t".join(map(_field, row)) + "\n")
    return text.getvalue().encode()


def _field(value: object) -> str:
    if value is None:
        return r"\N"
    return rf"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _insert(connection: sqlite3.Connection, table: str, columns: str, rows: list[Row]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    # Only our own constants make up the statement.
    connection.executemany(f"insert into {table} ({columns}) values ({marks})", rows)  # noqa: S608


def _conninfo(environment: Mapping[str, str]) -> str:
    return psycopg.conninfo.make_conninfo(
        host=environment["DB_HOST"],
        port=environment["DB_PORT"],
        dbname=environment["DB_NAME"],
        user=environment["DB_USER"],
        password=environment["DB_PASSWORD"],
    )


def put_body(url: str) -> bytes:
    """Return the body that puts a route."""
    return json.dumps({"url": url}).encode()
