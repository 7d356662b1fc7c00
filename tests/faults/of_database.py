"""Faults of PostgreSQL, F01 to F14."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import psycopg

from tests.faults.acts import troubled
from tests.faults.criteria import (
    known_routes_answer,
    nodes_stay_ready,
    nothing_is_flagged,
    old_answers_are_flagged,
    p99_holds,
    reads_do_not_fail,
    trouble_ends_within,
    writes_are_refused,
    writes_find_no_room,
    writes_succeed,
    writes_succeed_again,
)
from tests.faults.disks import a_small_disk, filled
from tests.faults.evidence import Evidence
from tests.faults.load import Load
from tests.faults.proxy import BLACKHOLE, Trouble
from tests.faults.scenario import RECENT_CHANGES_KIB, Criterion, Scenario
from tests.faults.stand import KNOWN, NODES, Stand
from tests.promises.caller import Caller
from tests.promises.crew import a_crew, keys, new_url
from tests.promises.ledger import Kind
from tests.promises.oracle import worst_staleness_s
from tests.promises.places import frozen, killed
from traffic_manager.db.postgres import REVISION_LOCK

READS_GO_ON = (known_routes_answer(), p99_holds, nodes_stay_ready)
WITHOUT_DATABASE = (*READS_GO_ON, old_answers_are_flagged)
# Four workers and two parents: each follows the log over a connection of its own.
_PROCESSES = 6
# Of F07: of each restart's trouble, and between restarts, so that the end of it shows.
_ERRORS_S = 3.0
_BETWEEN_S = 4.0
_PROPAGATED_S = 0.2
# Of F10.
_DISK_MIB = 24
# Of F14: changes that are sent until they are told, and how long for each.
_ONCE = 100
_TOLD_S = 60.0
_ONCE_KEYS = keys(_ONCE)
_UNPREPARED = {"DB_PREPARE": "false"}


def _few_writes(load: Load) -> Load:
    """Write as often as it can be done: who is 300 ms away holds the revision lock for as long, and of four workers
    each may have to wait for all others."""
    return replace(load, writes=2.0)


@contextmanager
def _refused(stand: Stand) -> Iterator[None]:
    """Take all connections that the server has to give."""
    proxy = stand.proxies["postgres"]
    with ExitStack() as fillers:
        with suppress(psycopg.OperationalError):
            while True:
                fillers.enter_context(psycopg.connect(stand.conninfo))
                proxy.cut()
        with _attempts_counted(stand):
            yield


@contextmanager
def _attempts_counted(stand: Stand) -> Iterator[None]:
    """Measure how often nodes try to connect."""
    opened, began = stand.proxies["postgres"].opened(), time.monotonic()
    yield
    attempts = stand.proxies["postgres"].opened() - opened
    stand.measured["attempts"] = attempts / (time.monotonic() - began) / _PROCESSES


def attempts_at_most(most: float) -> Criterion:
    """Who cannot connect does not try all the time: so often a second and process."""

    def judge(evidence: Evidence) -> Sequence[str]:
        rate = evidence.measured["attempts"]
        return [f"{rate:.2f} attempts to connect a second and process, not {most}"] if rate > most else []

    return judge


@contextmanager
def _hanging(stand: Stand) -> Iterator[None]:
    """Freeze PostgreSQL: connections stay, and nothing answers."""
    with frozen(stand.servers.postgres), _attempts_counted(stand):
        yield


@contextmanager
def _held(stand: Stand, statement: str) -> Iterator[None]:
    """Hold what *statement* takes, in a transaction of somebody else."""
    with psycopg.connect(stand.conninfo) as holder:
        holder.execute(statement)
        yield


@contextmanager
def _transaction_elsewhere(stand: Stand) -> Iterator[None]:
    """Leave a transaction open in another database of the same server."""
    with psycopg.connect(stand.servers.postgres.conninfo("postgres")) as holder:
        holder.execute("select pg_current_xact_id()")
        yield


def _changes_are_seen_at_once(evidence: Evidence) -> Sequence[str]:
    """Nothing is read that is older than changes need to get everywhere."""
    worst_s = worst_staleness_s(evidence.ledger)
    return [f"an answer was {worst_s:.2f} s behind"] if worst_s > _PROPAGATED_S else []


@contextmanager
def _restarted_in_good_order(stand: Stand) -> Iterator[None]:
    """Restart PostgreSQL several times, as its administrator does."""
    for number in range(stand.phases.rounds(2, 5)):
        stand.measured[f"stopped/{number}"] = time.monotonic()
        stand.servers.postgres.stop()
        stand.servers.postgres.start()
        stand.measured[f"restarted/{number}"] = time.monotonic()
        time.sleep(_BETWEEN_S)
    yield


@contextmanager
def _read_only(stand: Stand) -> Iterator[None]:
    """Let the server take no change, as a standby does."""
    postgres = stand.servers.postgres
    postgres.psql("alter system set default_transaction_read_only = on")
    postgres.psql("select pg_reload_conf()")
    try:
        yield
    finally:
        postgres.psql("alter system reset default_transaction_read_only")
        postgres.psql("select pg_reload_conf()")


@contextmanager
def _disk_full(stand: Stand) -> Iterator[None]:
    """Have the tables on a small disk, and fill it."""
    postgres = stand.servers.postgres
    place = postgres.folder / f"disk-{stand.database['DB_NAME']}"
    with a_small_disk(place, _DISK_MIB, place.parent.stat().st_uid):
        (place / "space").mkdir()
        os.chown(place / "space", place.parent.stat().st_uid, -1)
        stand.ask_database(f"create tablespace small location '{place}/space'")
        try:
            _move_tables(stand, "small")
            with filled(place):
                yield
            _move_tables(stand, "pg_default")
        finally:
            stand.ask_database("drop tablespace if exists small")


def _move_tables(stand: Stand, space: str) -> None:
    for table in ("routes", "changes"):
        stand.ask_database(f"alter table {table} set tablespace {space}")


@contextmanager
def _bulk_writes_in_adverse_order(stand: Stand) -> Iterator[None]:
    """Change the same routes in batches, each in another order, from all sides."""
    with a_crew() as crew:
        for number in range(2 * NODES):
            crew.add(_bulk_writer(stand, number))
        yield
    found = stand.ask_database("select deadlocks from pg_stat_database where datname = current_database()")
    if found != "0":
        stand.findings.append(f"{found} deadlocks")


class _BulkWriter:
    def __init__(self, stand: Stand, number: int) -> None:
        self._caller = Caller(stand.nodes[number % NODES], stand.ledger)
        self._random = random.Random(number)

    def __call__(self) -> object:
        keys = self._random.sample(KNOWN[:60], k=50)
        return self._caller.batch([{"operation": "put", **key._asdict(), "url": new_url()} for key in keys])


def _bulk_writer(stand: Stand, number: int) -> _BulkWriter:
    return _BulkWriter(stand, number)


@contextmanager
def _cut_after_commits(stand: Stand) -> Iterator[None]:
    """Cut every connection behind a commit; in the end some send their changes again until they are told."""
    with troubled(stand.proxies["postgres"], Trouble(cut_after=b"\0commit\0")):
        yield
        # The oracle sees that each is made once: in its ledger it is one write.
        callers = [Caller(node, stand.ledger) for node in stand.nodes]
        for number, key in enumerate(_ONCE_KEYS):
            sent = callers[number % NODES].put_until_told(key, new_url(), _TOLD_S)
            stand.measured[f"sent/{number}"] = sent


def _what_was_lost_was_sent_again(evidence: Evidence) -> Sequence[str]:
    """Each answer to a change that is sent until it is told was lost at least once: else nothing was tried."""
    sent = evidence.series("sent")
    never_lost = sum(times < 2 for times in sent)
    return (
        [f"of {len(sent)} changes {never_lost} were told at once"] if never_lost or len(sent) < _ONCE else []
    )


def _outcomes_are_unknown(evidence: Evidence) -> Sequence[str]:
    """Whoever lost the answer to a commit is told that nobody knows, and some of those changes are made."""
    made = {change.correlation_id for change in evidence.log.changes}
    unknown = [write for write in evidence.ledger.writes if write.is_outcome_unknown]
    done = sum(write.request_id in made for write in unknown)
    # What changes nothing is answered as ever: the database is only read for it.
    odd = [e for e in evidence.broken(Kind.WRITE) if e.status not in (200, 404, 409, 503)]
    found = [f"{len(odd)} writes were answered as if nothing was: {odd[0]}"] if odd else []
    return found if done else [*found, f"of {len(unknown)} unknown outcomes none was a success"]


SCENARIOS = [
    Scenario(
        "F01",
        "PostgreSQL killed",
        lambda stand: killed(stand.servers.postgres),
        (*WITHOUT_DATABASE, writes_are_refused(2.0), writes_succeed_again(3.0)),
    ),
    Scenario(
        "F02",
        "PostgreSQL frozen",
        _hanging,
        (*WITHOUT_DATABASE, writes_are_refused(2.0), attempts_at_most(1.0), writes_succeed_again(3.0)),
        proxied=("postgres",),
    ),
    Scenario(
        "F03",
        "PostgreSQL 300 ms away",
        lambda stand: troubled(stand.proxies["postgres"], Trouble(latency_s=0.3)),
        (*READS_GO_ON, writes_succeed(0.99)),
        shape=_few_writes,
        proxied=("postgres",),
    ),
    Scenario(
        "F03/2s",
        "PostgreSQL 2 s away",
        lambda stand: troubled(stand.proxies["postgres"], Trouble(latency_s=2.0)),
        (*READS_GO_ON, writes_are_refused(2.0)),
        proxied=("postgres",),
    ),
    Scenario(
        "F04",
        "cut off from PostgreSQL, without a word",
        lambda stand: troubled(stand.proxies["postgres"], BLACKHOLE),
        (*WITHOUT_DATABASE, writes_are_refused(2.0), writes_succeed_again(5.0)),
        proxied=("postgres",),
    ),
    Scenario(
        "F04/answers",
        "PostgreSQL's answers lost, requests not",
        lambda stand: troubled(stand.proxies["postgres"], Trouble(holds_answers=True)),
        (*WITHOUT_DATABASE, writes_are_refused(2.0), writes_succeed_again(5.0)),
        proxied=("postgres",),
    ),
    Scenario(
        "F05",
        "PostgreSQL has no connection left",
        _refused,
        (*WITHOUT_DATABASE, attempts_at_most(2.0), writes_succeed_again(5.0)),
        proxied=("postgres",),
    ),
    Scenario(
        "F06",
        "all writers wait for a lock of somebody else",
        lambda stand: _held(stand, "lock table routes in exclusive mode"),
        (*READS_GO_ON, nothing_is_flagged, writes_are_refused(2.0, though_reads_go_on=True)),
    ),
    Scenario(
        "F07",
        "PostgreSQL restarted again and again",
        _restarted_in_good_order,
        (*READS_GO_ON, trouble_ends_within(_ERRORS_S)),
        is_momentary=True,
    ),
    Scenario(
        "F09",
        "PostgreSQL read-only",
        _read_only,
        (
            reads_do_not_fail,
            p99_holds,
            nodes_stay_ready,
            nothing_is_flagged,
            writes_are_refused(0.1, though_reads_go_on=True),
        ),
    ),
    Scenario(
        "F10",
        "PostgreSQL's disk full",
        _disk_full,
        (
            reads_do_not_fail,
            nodes_stay_ready,
            nothing_is_flagged,
            writes_find_no_room,
            writes_succeed_again(5.0),
        ),
    ),
    Scenario(
        "F11",
        "a transaction left open in another database",
        _transaction_elsewhere,
        (*READS_GO_ON, nothing_is_flagged, writes_succeed(1.0), _changes_are_seen_at_once),
    ),
    Scenario(
        "F12",
        "the revision lock held by somebody else",
        lambda stand: _held(stand, f"select pg_advisory_xact_lock({REVISION_LOCK})"),
        (
            reads_do_not_fail,
            p99_holds,
            nothing_is_flagged,
            writes_are_refused(1.7, though_reads_go_on=True),
            writes_succeed_again(6.0),
        ),
    ),
    Scenario(
        "F13",
        "bulk writes of the same routes in adverse order",
        _bulk_writes_in_adverse_order,
        (known_routes_answer(), nodes_stay_ready),
        fills_kib=RECENT_CHANGES_KIB,
    ),
    Scenario(
        "F14",
        "connections cut between a commit and its answer",
        _cut_after_commits,
        (
            known_routes_answer(),
            _outcomes_are_unknown,
            _what_was_lost_was_sent_again,
            writes_succeed_again(3.0),
        ),
        (_UNPREPARED, _UNPREPARED),
        proxied=("postgres",),
    ),
]
