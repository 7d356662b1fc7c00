"""The database: can it be reached, is it safe, may our role do what it has to, are the indexes there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traffic_manager.cli.checkup import Finding, Findings, advice, good, problem
from traffic_manager.config.settings import Settings
from traffic_manager.errors import SourceUnavailable

# Leases and receipts go by the database's clock, tokens and expiry of keys by ours.
_CLOCK_S = 1.0
_POSTGRES = 120000
# Above so many rows, and so large a part, vacuum is behind.
_DEAD_ROWS, _DEAD_PART = 10_000, 0.3
# Connections that others may need: psql, backups, monitoring.
_SPARE = 5

_UNSAFE = {
    "fsync": "answered changes can be lost with the power, and the database with them",
    "full_page_writes": "a power cut can damage the database",
}


def look(settings: Settings) -> Findings:
    """Yield what is found."""
    from traffic_manager.db.examination import examine

    if not settings.db.is_postgres and not settings.db.path.exists():
        yield advice(
            "database", f"DB_PATH: there is no {settings.db.path} yet", "`serve` or `migrate` makes it"
        )
        return
    try:
        found = examine(settings.db)
    except SourceUnavailable as away:
        yield problem("database", f"cannot be reached as {_who(settings)}: {away}", _reach(settings))
        return
    yield good("database", f"reached {settings.db.described}")
    yield _version(found.version)
    yield from _owner(settings)
    yield from _postgres(settings, found.settings) if settings.db.is_postgres else _sqlite(found.settings)
    yield from _clock(found.clock_ahead_s)
    if found.version is not None:
        yield from _permissions(settings, found.lacking, may_rewrite=found.may_rewrite)
        yield from _indexes(found.missing_indexes, found.invalid_indexes, found.dead or {})


def _who(settings: Settings) -> str:
    return settings.db.user if settings.db.is_postgres else "this user"


def _reach(settings: Settings) -> str:
    if settings.db.is_postgres:
        return "check DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD and pg_hba.conf"
    return f"check that {settings.db.path} is a file of ours that this user may read and write"


def _version(found: str | None) -> Finding:
    from traffic_manager.db.schema import NEXT_SCHEMA_VERSION, SCHEMA_VERSION

    if found == SCHEMA_VERSION:
        return good("tables", f"of version {found}, as this program's")
    if found == NEXT_SCHEMA_VERSION:
        return advice("tables", f"of version {found}, one after this program's", "upgrade this program, too")
    if found is not None and found > NEXT_SCHEMA_VERSION:
        return problem(
            "tables", f"of version {found}, too new for this program", "use the program that made them"
        )
    return problem("tables", f"of version {found or 'none'}", "run `traffic-manager migrate`")


def _owner(settings: Settings) -> Findings:
    from traffic_manager.db.examination import reach

    if settings.db.migrate_user is None:
        return
    try:
        reach(settings.db)
    except SourceUnavailable as away:
        fix = "check DB_MIGRATE_USER and DB_MIGRATE_PASSWORD"
        yield problem("migration role", f"{settings.db.migrate_user} cannot connect: {away}", fix)
    else:
        yield good("migration role", f"{settings.db.migrate_user} can connect")


def _sqlite(found: Mapping[str, str]) -> Findings:
    if found["quick_check"] != "ok":
        yield problem("SQLite", f"the file is damaged: {found['quick_check']}", "restore a backup")
    else:
        yield good("SQLite", f"{found['version']}, the file is whole, journal {found['journal_mode']}")


def _postgres(settings: Settings, found: Mapping[str, str]) -> Findings:
    number = int(found["server_version_num"])
    if number < _POSTGRES:
        yield problem("PostgreSQL", f"is of version {number // 10000}", "upgrade PostgreSQL to 12 or newer")
    for name, what in _UNSAFE.items():
        if found[name] != "on":
            yield problem(
                "PostgreSQL", f"{name} is {found[name]}: {what}", f"set {name} = on in postgresql.conf"
            )
    if found["is_replica"] == "true" or found["transaction_read_only"] == "on":
        yield problem(
            "PostgreSQL", "takes no changes: it is a replica or read-only", "set DB_HOST to the primary"
        )
    if found["server_encoding"] != "UTF8":
        yield advice(
            "PostgreSQL", f"the encoding is {found['server_encoding']}", "make the database with UTF8"
        )
    if found["autovacuum"] != "on":
        yield problem("PostgreSQL", "autovacuum is off: the tables grow without end", "set autovacuum = on")
    yield _connections(settings, int(found["max_connections"]), number)


def _connections(settings: Settings, most: int, number: int) -> Finding:
    node = settings.api.workers * (settings.db.pool_max + 1) + 1
    shown = f"version {number // 10000}; this node takes up to {node} of {most} connections"
    if node + _SPARE > most:
        fix = "raise max_connections, lower DB_POOL_MAX, or put a pooler in between: docs/scaling.md"
        return problem("PostgreSQL", shown, fix)
    return good("PostgreSQL", f"{shown}: enough for {(most - _SPARE) // node} such nodes")


def _clock(ahead_s: float) -> Findings:
    if abs(ahead_s) > _CLOCK_S:
        where = "before" if ahead_s > 0 else "behind"
        what = f"the database's clock is {abs(ahead_s):.1f} s {where} this machine's"
        yield problem("clock", what, "run a time service (chrony, systemd-timesyncd) on both")
    else:
        yield good("clock", "the database's and this machine's agree")


def _permissions(settings: Settings, lacking: Sequence[str], *, may_rewrite: bool) -> Findings:
    if lacking:
        what = f"{settings.db.user} lacks {', '.join(lacking)}"
        yield problem(
            "permissions", what, "set DB_MIGRATE_USER and run `traffic-manager migrate`, which grants it"
        )
    elif may_rewrite and settings.db.is_postgres and not settings.app.is_development:
        what = f"{settings.db.user} may rewrite the log of changes"
        yield advice(
            "permissions", what, "let another role own the tables: DB_MIGRATE_USER, docs/security.md"
        )
    else:
        yield good("permissions", "all that is needed")


def _indexes(missing: Sequence[str], invalid: Sequence[str], dead: Mapping[str, tuple[int, int]]) -> Findings:
    from traffic_manager.db.examination import index_statement

    for name in missing:
        yield problem("indexes", f"{name} is missing", index_statement(name))
    for name in invalid:
        yield problem(
            "indexes", f"{name} is not valid: its building broke off", f"reindex index concurrently {name}"
        )
    for table, (gone, live) in dead.items():
        if gone > _DEAD_ROWS and gone > _DEAD_PART * (gone + live):
            yield advice(
                "indexes", f"{table} has {gone:,} dead rows beside {live:,}", f"vacuum (analyze) {table}"
            )
    if not missing and not invalid:
        yield good("indexes", "all are there and valid")
