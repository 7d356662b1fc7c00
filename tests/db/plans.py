"""The hot statements, large tables to run them on, and the plans that a database makes for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.db.engines import SqlEngine
from tests.routing.builders import a_key
from traffic_manager.db.session import Cursor, Session
from traffic_manager.routing.ports import ChangeTraits, NameFilter

LAST = a_key("service-150", "v50", tenant="tenant-15")

FILL_ROUTES = """with recursive n(i) as (select 0 union all select i + 1 from n where i < :last)
    insert into routes select 'tenant-' || (i / 1000), 'service-' || (i / 100), 'prod',
    'v' || (i - i / 100 * 100), 'https://example.com/', true, i + 1, 0, 0 from n"""
FILL_CHANGES = """insert into changes (revision, batch_end, kind, tenant, service, env, version, action, url,
    is_active, actor, correlation_id, occurred_at, chain, chain_version)
    select revision, revision, 'route', tenant, service, env, version, 'created', url, true, 'alice', 'c-1', 0,
    :chain, 1 from routes"""


def _head(engine: SqlEngine) -> int:
    return engine.store.look_up([]).head.revision


STATEMENTS: dict[str, Callable[[SqlEngine], object]] = {
    "look up one": lambda e: e.store.look_up([LAST]),
    "look up a thousand": lambda e: e.store.look_up([a_key(f"service-{n}") for n in range(1000)]),
    "first page": lambda e: e.store.page(NameFilter(), None, None, 100),
    "next page": lambda e: e.store.page(NameFilter(), None, LAST, 100),
    "page of a tenant": lambda e: e.store.page(NameFilter(tenant="tenant-15"), None, LAST, 100),
    "page of a service": lambda e: e.store.page(NameFilter(service="service-150"), None, LAST, 100),
    "page of an environment": lambda e: e.store.page(NameFilter(env="prod"), True, LAST, 100),
    "page of inactive routes": lambda e: e.store.page(NameFilter(), False, None, 100),
    "page of an environment's inactive routes": lambda e: e.store.page(
        NameFilter(env="prod"), False, None, 100
    ),
    "page of a version": lambda e: e.store.page(NameFilter(version="v50"), None, LAST, 100),
    "history": lambda e: e.store.history(LAST, 100_000, 100),
    "changes": lambda e: e.store.changes(NameFilter(), _head(e) - 10, 100),
    "changes of somebody": lambda e: e.store.changes(
        NameFilter(), _head(e) - 10, 100, ChangeTraits(actor="alice", since=1)
    ),
    "changes of a route": lambda e: e.store.changes(NameFilter(*LAST), _head(e) - 10, 100),
    "pulse": lambda e: e.feed().pulse(_head(e)),
    "pulse with changes": lambda e: e.feed().pulse(_head(e) - 10, 2000),
    "pulse at the head": lambda e: e.feed().pulse(_head(e), 2000),
    "slice": lambda e: e.feed().slice(_head(e) - 10, 100),
    "window": lambda e: e.rows(
        "select 1 from changes where revision > :floor order by revision", floor=_head(e)
    ),
    "backlog": lambda e: e.leases.published_revision("relay"),
}

# SQLite sorts what one tenant has.
LIMITED: dict[str, Callable[[SqlEngine], object]] = {
    "page of two tenants, for whoever may see no others": lambda e: e.store.page(
        NameFilter(within=frozenset({("tenant-15", "prod"), ("tenant-14", None)})), None, LAST, 100
    ),
    "page of a service, for whoever may see one tenant": lambda e: e.store.page(
        NameFilter(service="service-150", within=frozenset({("tenant-15", None)})), None, LAST, 100
    ),
    "changes, for whoever may see one tenant": lambda e: e.store.changes(
        NameFilter(within=frozenset({("tenant-15", None)})), _head(e) - 10, 100
    ),
}


def is_slow_in_sqlite(step: str) -> bool:
    """Return whether a step goes through a table without an index, or sorts what an index should bring in
    order. Rows of an answer are set aside, read back (`SCAN r LEFT-JOIN`) and may be sorted."""
    if "TEMP B-TREE" in step:
        return step.startswith(" ")  # indented: inside of what is set aside
    is_scan = step.strip().startswith("SCAN ") and " INDEX " not in step
    return is_scan and step not in ("SCAN m", "SCAN r LEFT-JOIN", "SCAN c LEFT-JOIN")


def is_slow_in_postgres(step: str) -> bool:
    """Return whether a step went through a table, or took up more rows than a thousand asked for."""
    if "Seq Scan on" in step:
        return "Seq Scan on meta" not in step
    rows = re.search(r"actual rows=([0-9.]+)|Rows Removed by \w+.*: ([0-9]+)", step)
    return rows is not None and float(rows[1] or rows[2]) > 1001


def plans_of(
    engine: SqlEngine, call: Callable[[SqlEngine], object], monkeypatch: pytest.MonkeyPatch
) -> list[list[str]]:
    """Return the steps of every statement that *call* runs."""
    plans: list[list[str]] = []
    run = Session._run

    def explained(session: Session, statement: str, parameters: Any) -> Cursor:  # Any: as in Session
        if engine.name == "sqlite":
            rows = run(session, f"explain query plan {statement}", parameters).fetchall()
            plans.append([("" if row[1] == 0 else " ") + row[3] for row in rows])
        else:
            rows = run(session, f"explain (analyze, timing off) {statement}", parameters).fetchall()
            plans.append([row[0] for row in rows])
        return run(session, statement, parameters)

    monkeypatch.setattr(Session, "_run", explained)
    call(engine)
    return plans
