"""Routes and their changes in the database: the `RouteStore` of the rules.

Every read sees the head and its rows in one statement, so that an answer names the revision it was true at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from time import time_ns
from typing import Any

import orjson

from traffic_manager.db import change_traces
from traffic_manager.db.kept_receipts import KeptReceipts, OpenReceipts
from traffic_manager.db.pool import ChangeSession, Database, Question, Write
from traffic_manager.db.rows import CHANGE_COLUMNS, ROUTE_COLUMNS, change_of, route_of
from traffic_manager.db.session import Row
from traffic_manager.errors import SchemaMismatch
from traffic_manager.monitoring.spans import Record, step
from traffic_manager.routing.chain import ROUTE_KIND, columns_of, covered, link, version_of
from traffic_manager.routing.model import Change, Route, RouteKey, Trace
from traffic_manager.routing.ports import (
    ANY_TRAITS,
    TRAITS_SCAN,
    ChangePage,
    ChangeTraits,
    Claim,
    Head,
    NameFilter,
    Names,
    Receipt,
    RequestName,
    RoutePage,
    Sighting,
    WriteTransaction,
)

# Backwards over the primary key of changes: max() was seen to sort the table on stale statistics.
HEAD_COLUMNS = """m.epoch, m.epoch_number,
    coalesce((select revision from changes order by revision desc limit 1), 0)"""

# Served by the primary key of routes, once per key.
_LOOK_UP = f"""select {HEAD_COLUMNS}, r.* from meta m left join (
    select {ROUTE_COLUMNS} from {{keys_from}} join routes r
      on r.tenant = k.value->>0 and r.service = k.value->>1 and r.env = k.value->>2
      and r.version = k.value->>3
    ) r on true"""

# Served by the primary key of routes, once per tenant, over all routes of it: 10,000 take 1.7 ms, on SQLite 0.3.
_COUNTS = """select k.value->>0, (select count(*) from routes r where r.tenant = k.value->>0)
    from {keys_from}"""

# Served by the primary key of routes or, with a filter, by ix_routes_<filter>: all are in key order.
_PAGE = f"""select {HEAD_COLUMNS}, r.* from meta m left join (
    select {ROUTE_COLUMNS} from routes r where {{condition}}
    order by r.tenant, r.service, r.env, r.version limit :size) r on true
    order by r.tenant, r.service, r.env, r.version"""

# Served by ix_changes_key, backwards.
_HISTORY = f"""select {HEAD_COLUMNS}, m.compacted_revision, c.* from meta m left join (
    select {CHANGE_COLUMNS} from changes c
    where c.kind = '{ROUTE_KIND}' and c.tenant = :tenant and c.service = :service and c.env = :env
      and c.version = :version and c.revision < :below
    order by c.revision desc limit :size) c on true order by c.revision desc"""

# Served by the primary key of changes or by ix_changes_key if the tenant is asked for.
_CHANGES = f"""select {HEAD_COLUMNS}, m.compacted_revision, c.* from meta m left join (
    select {CHANGE_COLUMNS} from changes c
    where c.kind = '{ROUTE_KIND}' and c.revision > :after {{condition}}
    order by c.revision limit :size) c on true order by c.revision"""

_LAST = f"""select {HEAD_COLUMNS}, {{now}},
    coalesce((select chain from changes order by revision desc limit 1), m.compacted_chain) from meta m"""

_INSERT_CHANGES = """insert into changes (revision, batch_end, kind, tenant, service, env, version, action,
    url, is_active, previous, actor, reason, correlation_id, occurred_at, address, chain, chain_version)
    {rows}"""
_CHANGE_TYPES = (
    *("bigint", "bigint", "text", "text", "text", "text", "text", "text", "text", "boolean", "text", "text"),
    *("text", "text", "bigint", "text", "bytea", "integer"),
)

_PUT_ROUTES = """insert into routes
    (tenant, service, env, version, url, is_active, revision, created_at, updated_at) {rows}
    on conflict (tenant, service, env, version) do update set url = excluded.url,
    is_active = excluded.is_active, revision = excluded.revision, updated_at = excluded.updated_at,
    created_at = excluded.created_at"""
_ROUTE_TYPES = ("text", "text", "text", "text", "text", "boolean", "bigint", "bigint", "bigint")

# Served by the primary key of routes, once per key.
_DELETE_ROUTES = "delete from routes where (tenant, service, env, version) in ({rows})"
_KEY_TYPES = ("text", "text", "text", "text")

_MAX_REVISION = 2**62


class SqlStore:
    """The store over either engine. *record* is told how long each traced change took to be written."""

    def __init__(self, database: Database, record: Record | None = None) -> None:
        self._database = database
        self._record = record
        self._look_up = _LOOK_UP.format(keys_from=database.dialect.keys_from)
        self._receipts = KeptReceipts(database.dialect)
        self._counts = _COUNTS.format(keys_from=database.dialect.keys_from)

    @step("store.look_up")
    def look_up(self, keys: Collection[RouteKey]) -> Sighting:
        """Return the routes of *keys* as they are at the head now."""
        with self._database.reading() as session:
            return _sighting(session.rows(self._look_up, keys=_as_json(keys)))

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        """Return how many routes each of *tenants* has now."""
        with self._database.reading() as session:
            return _counted(session.rows(self._counts, keys=_as_json([(tenant,) for tenant in tenants])))

    @step("store.page")
    def page(
        self, wanted: NameFilter, is_active: bool | None, after: RouteKey | None, size: int
    ) -> RoutePage:
        """Return up to *size* routes above the key *after*."""
        conditions, parameters = _name_conditions("r", wanted)
        if is_active is not None:
            # No parameter: ix_routes_inactive serves only what is written like its own condition.
            conditions.append("r.is_active" if is_active else "not r.is_active")
        if after is not None:
            conditions.append(
                "(r.tenant, r.service, r.env, r.version) > (:a_tenant, :a_service, :a_env, :a_version)"
            )
            parameters |= {f"a_{field}": name for field, name in after._asdict().items()}
        statement = _PAGE.format(condition=" and ".join(conditions) or "true")
        with self._database.reading() as session:
            rows = session.rows(statement, size=size + 1, **parameters)
        found = [row[3:] for row in rows if row[3] is not None]
        last = RouteKey.known(*found[size - 1][:4]) if len(found) > size else None
        routes = [route for row in found[:size] if (route := route_of(row))]
        return RoutePage(_head(rows), routes, last)

    @step("store.history")
    def history(self, key: RouteKey, below: int | None, size: int) -> ChangePage:
        """Return up to *size* changes of *key* below revision *below*, the newest first."""
        with self._database.reading() as session:
            rows = session.rows(_HISTORY, size=size + 1, below=below or _MAX_REVISION, **key._asdict())
        return _change_page(rows, size)

    @step("store.changes")
    def changes(
        self, wanted: NameFilter, after: int, limit: int, traits: ChangeTraits = ANY_TRAITS
    ) -> ChangePage:
        """Return up to *limit* changes of routes after revision *after*, the oldest first. With *traits* of the next
        TRAITS_SCAN revisions only."""
        conditions, parameters = _name_conditions("c", wanted)
        upto = None
        if traits != ANY_TRAITS:
            upto = parameters["upto"] = after + TRAITS_SCAN
            conditions += _trait_conditions(traits, parameters)
        statement = _CHANGES.format(condition="".join(f" and {c}" for c in conditions))
        with self._database.reading() as session:
            rows = session.rows(statement, size=limit + 1, after=after, **parameters)
        page = _change_page(rows, limit)
        if upto is not None and page.last is None and upto < page.head.revision:
            return replace(page, last=upto)
        return page

    @contextmanager
    def writing(
        self, keys: Collection[RouteKey], claims: Collection[Claim] = ()
    ) -> Iterator[WriteTransaction]:
        """Begin a change of *keys*, for requests with these *claims*, under the revision lock."""
        began_ns = time_ns()
        with self._database.changing() as session:
            last, found, *kept = session.begin(
                Question(_LAST.format(now=self._database.dialect.now)),
                Question(self._look_up, _as_json(keys)),
                *self._receipts.questions(claims),
            )
            receipts = self._receipts.opened(session.ask, kept)
            ask = partial(self._ask, session)
            count = partial(self._count, session)
            last_row = only(last[0] if last else None)
            transaction = SqlWriteTransaction(last_row, _sighting(found).routes, ask, receipts, count)
            yield transaction
            if transaction.writes:
                session.commit(transaction.writes, transaction.upto)
        if self._record:
            for trace in transaction.traces:
                self._record(trace, began_ns, time_ns())

    def _count(self, session: ChangeSession, tenants: Collection[str]) -> Mapping[str, int]:
        return _counted(session.ask(Question(self._counts, _as_json([(tenant,) for tenant in tenants]))))

    def _ask(self, session: ChangeSession, keys: Collection[RouteKey]) -> Mapping[RouteKey, Route]:
        return _sighting(session.ask(Question(self._look_up, _as_json(keys)))).routes


class SqlWriteTransaction:
    """What to write under the revision lock: `writes`, in statements, up to revision `upto`."""

    def __init__(
        self,
        last: Row,
        routes: Mapping[RouteKey, Route],
        ask: Callable[[Collection[RouteKey]], Mapping[RouteKey, Route]],
        receipts: OpenReceipts,
        count: Callable[[Collection[str]], Mapping[str, int]],
    ) -> None:
        self.head = _head([last])
        self.now: int = last[3]
        self.routes = routes
        self._ask = ask
        self._receipts = receipts
        self.counts = count
        self.writes: list[Write] = []
        self.upto = self.head.revision
        self.traces: set[Trace] = set()
        self._chain: bytes = last[4]

    @property
    def receipts(self) -> Mapping[RequestName, Receipt]:
        """The receipts of the claims asked for."""
        return self._receipts.found

    def look_up(self, keys: Collection[RouteKey], claims: Collection[Claim] = ()) -> None:
        """Ask for more."""
        self.routes = {**self.routes, **self._ask(keys)}
        self._receipts.look_up(claims)

    def keep(self, receipts: Sequence[Receipt]) -> None:
        """Keep *receipts*, and drop some of those whose time is over."""
        self.writes += self._receipts.writes(receipts, self.now)

    def append(self, changes: Sequence[Change], routes: Mapping[RouteKey, Route | None]) -> None:
        """Write *changes* with their digests, and the last state of each of *routes*."""
        kept = [_route_row(route) for route in routes.values() if route]
        gone = [tuple(key) for key, route in routes.items() if route is None]
        writes = (
            Write(_INSERT_CHANGES, _CHANGE_TYPES, [self._chained(change) for change in changes]),
            Write(_PUT_ROUTES, _ROUTE_TYPES, kept),
            Write(_DELETE_ROUTES, _KEY_TYPES, gone),
        )
        self.writes += [write for write in writes if write.rows]
        self.upto = changes[-1].revision

    def trace(self, traces: Mapping[int, Trace]) -> None:
        """Keep what the changes are a part of."""
        self.traces.update(traces.values())
        self.writes += change_traces.writes(traces, self.upto)

    def _chained(self, change: Change) -> list[object]:
        columns, version = columns_of(change), version_of(change)
        self._chain = link(self._chain, covered(columns, None, change.address, version))
        return [*columns, change.address, self._chain, version]


def _name_conditions(table: str, wanted: NameFilter) -> tuple[list[str], dict[str, Any]]:
    """Return conditions that all must hold, and their parameters. What the caller may not see is left out here, by
    the database, and not later: pages and their tokens would tell of it."""
    parameters: dict[str, Any] = {}
    alternatives = [
        " and ".join(_pattern_conditions(table, f"{position}", names, parameters)) or "true"
        for position, names in enumerate(wanted.patterns)
    ]
    if alternatives == ["true"]:
        return [], {}
    return ["(" + (" or ".join(alternatives) or "false") + ")"], parameters


def _trait_conditions(traits: ChangeTraits, parameters: dict[str, Any]) -> list[str]:
    """Return conditions that all must hold, and put their parameters into *parameters*."""
    conditions = {
        "actor": "(c.actor = :actor or substr(c.actor, 1, length(:actor) + 1) = :actor || '/')",
        "action": "c.action = :action",
        "since": "c.occurred_at >= :since",
        "until": "c.occurred_at < :until",
    }
    given = {name: value for name, value in asdict(traits).items() if value is not None}
    parameters |= given
    return ["c.revision <= :upto", *(conditions[name] for name in given)]


def _pattern_conditions(table: str, suffix: str, names: Names, parameters: dict[str, Any]) -> Iterator[str]:
    for field, name in zip(RouteKey._fields, names, strict=True):
        if name is not None:
            parameters[f"{field}_{suffix}"] = name
            yield f"{table}.{field} = :{field}_{suffix}"


def _counted(rows: Sequence[Row]) -> Mapping[str, int]:
    return {row[0]: row[1] for row in rows}


def _as_json(keys: Collection[tuple[str, ...]]) -> str:
    return orjson.dumps([tuple(key) for key in keys]).decode()


def only(row: Row | None) -> Row:
    """Return the row of `meta`. Raises SchemaMismatch if it is not there."""
    if row is None:
        raise SchemaMismatch("table meta: its one row is missing; restore the database")
    return row


def _head(rows: Sequence[Row]) -> Head:
    return Head(*only(rows[0] if rows else None)[:3])


def _sighting(rows: Sequence[Row]) -> Sighting:
    routes = [route for row in rows if row[3] is not None and (route := route_of(row[3:]))]
    return Sighting(_head(rows), {route.key: route for route in routes})


def _route_row(route: Route) -> Row:
    return (*route.key, route.url, route.is_active, route.revision, route.created_at, route.updated_at)


def _change_page(rows: Sequence[Row], size: int) -> ChangePage:
    found = [row[4:] for row in rows if row[4] is not None]
    last = found[size - 1][0] if len(found) > size else None
    changes = [change for row in found[:size] if (change := change_of(row))]
    compacted_revision = only(rows[0] if rows else None)[3]
    return ChangePage(_head(rows), changes, last, compacted_revision)
