"""Faults of our own processes, F40 to F52."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from resource import RLIMIT_NOFILE, prlimit

import httpx2

from tests.faults.acts import seconds_until, troubled
from tests.faults.criteria import (
    known_routes_answer,
    nodes_stay_ready,
    nothing_fails,
    old_answers_are_flagged,
    p99_holds,
)
from tests.faults.evidence import Evidence
from tests.faults.load import Load
from tests.faults.machine import age_s
from tests.faults.proxy import BLACKHOLE
from tests.faults.scenario import Criterion, Scenario, balanced
from tests.faults.stand import LEASE_IS_HELD, NODES, Stand
from tests.faults.verdict import REQUESTS
from tests.node import Node, workers_of
from tests.promises.ledger import Kind
from tests.promises.places import frozen, killed
from tests.servers.ports import HOST

_REPLACED_S = 1.0
_KILL_EVERY_S = 2.0
_IN_FLIGHT = 4
_READY_WITHOUT_DATABASE_S = 3.0
_READY_WITH_DATABASE_S = 2.0
_EXIT_S = 30.0
_HANDED_OVER_S = 1.0
# Until every client's probe has seen that the node is ready.
_SEEN_S = 0.5
_WEDGED_S = 15.0
_START_S = 5.0
# For each node, beside the load of the table.
_START_STATEMENTS = 21
_FILES = 384
# More than two workers have room for, and not faster than those too many are sent away.
_IDLE_CLIENTS = 300
_BETWEEN_CLIENTS_S = 0.06
_DRAINING = {"DRAIN_SECONDS": "1"}


@contextmanager
def _workers_killed(stand: Stand) -> Iterator[None]:
    kills = stand.phases.rounds(4, 50)
    for _ in range(kills):
        began = time.monotonic()
        _kill_the_oldest(stand)
        time.sleep(max(0.0, began + _KILL_EVERY_S - time.monotonic()))
    stand.measured["kills"] = kills
    yield


def _kill_the_oldest(stand: Stand) -> None:
    """Kill the worker that has lived longest, and see that it is replaced."""
    node, victim = max(
        ((node, pid) for node in stand.nodes for pid in workers_of(node)), key=lambda found: age_s(found[1])
    )
    others = set(workers_of(node)) - {victim}
    os.kill(victim, signal.SIGKILL)
    took_s = seconds_until(lambda: set(workers_of(node)) - others - {victim}, _REPLACED_S)
    if took_s >= _REPLACED_S:
        stand.findings.append(f"worker {victim} was not replaced in {took_s:.1f} s")


def _only_what_was_in_flight_fails(evidence: Evidence) -> Sequence[str]:
    failed = [exchange for exchange in evidence.since_broken(*REQUESTS) if exchange.has_failed]
    most = int(evidence.measured["kills"]) * _IN_FLIGHT
    return [f"{len(failed)} requests failed, not {most}: {failed[0]}"] if len(failed) > most else []


@contextmanager
def _started_without_database(stand: Stand) -> Iterator[None]:
    """Start a node that has a snapshot while the database is away."""
    node = stand.nodes[0]
    node.stop()
    with killed(stand.servers.postgres):
        node.start(wait_ready=False)
        took_s = seconds_until(node.is_ready, 10.0)
        if took_s > _READY_WITHOUT_DATABASE_S:
            stand.findings.append(f"the node was ready after {took_s:.1f} s")
        yield


@contextmanager
def _started_with_nothing(stand: Stand) -> Iterator[None]:
    """Start a node that has no snapshot while the database is away; it is ready soon after the database is."""
    node = stand.nodes[0]
    node.stop()
    with killed(stand.servers.postgres):
        node.start(wait_ready=False)
        if seconds_until(lambda: _is_alive(node), 10.0) >= 10.0:
            stand.findings.append("the node does not say that it lives")
        yield
        if node.is_ready():
            stand.findings.append("the node says that it is ready, and has no table")
        if "worker_died" in node.log():
            stand.findings.append("a worker died for want of a database")
    took_s = seconds_until(node.is_ready, 10.0)
    if took_s > _READY_WITH_DATABASE_S:
        stand.findings.append(f"the node was ready {took_s:.1f} s after the database")


def _is_alive(node: Node) -> bool:
    with suppress(httpx2.HTTPError), node.client(1.0) as client:
        return client.get("/health/live").status_code == 200
    return False


@contextmanager
def _restarted_in_turn(stand: Stand) -> Iterator[None]:
    """Restart one node after the other."""
    for _ in range(stand.phases.rounds(2, 50)):
        for node in stand.nodes:
            time.sleep(_SEEN_S)
            began = time.monotonic()
            code = node.stop(_EXIT_S)
            if code != 0:
                stand.findings.append(f"exit code {code} after {time.monotonic() - began:.1f} s")
            _see_a_relay(stand)
            node.start()
    time.sleep(_SEEN_S)
    yield


def _see_a_relay(stand: Stand) -> None:
    """See that somebody relays: who has just stopped does not, and has told so."""
    took_s = seconds_until(lambda: stand.ask_database(LEASE_IS_HELD), 3 * _HANDED_OVER_S)
    if took_s > _HANDED_OVER_S:
        stand.findings.append(f"nobody had the relay's lease for {took_s:.1f} s")


@contextmanager
def _wedged(stand: Stand) -> Iterator[None]:
    """Stop a worker for good, as a deadlock would; it is replaced, and the node lives on meanwhile."""
    node = stand.nodes[0]
    victim, *others = workers_of(node)
    os.kill(victim, signal.SIGSTOP)
    took_s = seconds_until(lambda: set(workers_of(node)) - {victim, *others}, 2 * _WEDGED_S)
    if took_s > _WEDGED_S:
        stand.findings.append(f"a wedged worker was replaced after {took_s:.1f} s")
    yield


def _node_lives_on(evidence: Evidence) -> Sequence[str]:
    samples = evidence.since_broken(Kind.LIVE)
    failed = [sample for sample in samples if sample.has_failed]
    return [f"{len(failed)} of {len(samples)} probes failed: {failed[0]}"] if failed else []


@contextmanager
def _bad_row(stand: Stand) -> Iterator[None]:
    """Leave a row that breaks the rules in the table, and start all nodes again without what they knew."""
    stand.ask_database("update routes set url = '' where service = 'service-0' and tenant = 'team-b'")
    for node in stand.nodes:
        node.kill()
    for node in stand.nodes:
        node.start()
    for number in range(len(stand.nodes)):
        _see_bad_row(stand, number)
    yield


def _see_bad_row(stand: Stand, node: int) -> None:
    if seconds_until(lambda: stand.metric(node, "tm_bad_row_total"), 5.0) >= 5.0:
        stand.findings.append(f"node {node} has not counted the bad row")


def _reading_alone(load: Load) -> Load:
    """Ask for nothing that costs the database statements."""
    return replace(load, writes=0.0, strong_resolves=0.0)


@contextmanager
def _all_killed_and_started(stand: Stand) -> Iterator[None]:
    """Start all nodes at the same time, and see what that costs the database."""
    for node in stand.nodes:
        node.kill()
    for node in stand.nodes:
        node.start(wait_ready=False)
    took_s = seconds_until(lambda: all(node.is_ready() for node in stand.nodes), 3 * _START_S)
    if took_s > _START_S:
        stand.findings.append(f"all nodes were ready after {took_s:.1f} s")
    asked = sum(_asked_beside_polls(stand, number) for number in range(len(stand.nodes)))
    if asked > _START_STATEMENTS * len(stand.nodes):
        stand.findings.append(f"starting took {asked:.0f} statements, polls not counted")
    yield


def _asked_beside_polls(stand: Stand, node: int) -> float:
    """Return how many statements a node has sent that were no poll for changes: these come all the time."""
    return stand.metric(node, "db_queries_total") - stand.metric(node, "tm_follower_polls_total")


@contextmanager
def _few_files(stand: Stand) -> Iterator[None]:
    """Let every worker have few open files, and clients hold more connections than that leaves room for."""
    with ExitStack() as idle:
        for node in stand.nodes:
            _limit_files(node)
        stand.measured["limited"] = time.monotonic()
        for _ in range(_IDLE_CLIENTS):
            for node in stand.nodes:
                idle.enter_context(socket.create_connection((HOST, node.port), timeout=2.0))
            time.sleep(_BETWEEN_CLIENTS_S)
        yield


def _limit_files(node: Node) -> None:
    """Limit a node, and have it fork its workers again: they count what they may open when they are born."""
    prlimit(node.pid, RLIMIT_NOFILE, (_FILES, _FILES))
    old = set(workers_of(node))
    for worker in old:
        os.kill(worker, signal.SIGKILL)
    seconds_until(lambda: len(set(workers_of(node)) - old) == len(old) and node.is_ready(), _WEDGED_S)


def _lives_though_full(evidence: Evidence) -> Sequence[str]:
    """Probes are answered, though there is no room for other clients."""
    limited_s = evidence.measured["limited"]
    samples = [e for e in evidence.since_broken(Kind.LIVE) if e.due_ns / 1e9 > limited_s]
    failed = [sample for sample in samples if sample.has_failed]
    return [f"{len(failed)} of {len(samples)} probes failed: {failed[0]}"] if failed else []


def _answered_again_within(most_s: float) -> Criterion:
    def judge(evidence: Evidence) -> Sequence[str]:
        took_s = evidence.recovered_after_s
        return [f"the last failure was {took_s:.1f} s after"] if took_s > most_s else []

    return judge


@contextmanager
def _cut_from_everything(stand: Stand) -> Iterator[None]:
    """Leave nodes with nothing but their clients."""
    with (
        troubled(stand.proxies["postgres"], BLACKHOLE),
        troubled(stand.proxies["redis"], BLACKHOLE),
        frozen(stand.servers.kafka),
    ):
        yield


SCENARIOS = [
    Scenario(
        "F40",
        "workers killed again and again",
        _workers_killed,
        (_only_what_was_in_flight_fails,),
        kills_our_own=True,
        is_momentary=True,
    ),
    Scenario(
        "F44",
        "started without a database, with a snapshot",
        _started_without_database,
        (known_routes_answer(1.0), old_answers_are_flagged),
        ({**_DRAINING}, {}),
        balanced,
        kills_our_own=True,
    ),
    Scenario(
        "F45",
        "started without a database and without a snapshot",
        _started_with_nothing,
        (known_routes_answer(1.0),),
        ({**_DRAINING, "SNAPSHOT_PATH": "off"}, {}),
        balanced,
        kills_our_own=True,
    ),
    Scenario(
        "F46",
        "rolling restarts",
        _restarted_in_turn,
        (nothing_fails,),
        (_DRAINING, _DRAINING),
        balanced,
        kills_our_own=True,
        is_momentary=True,
    ),
    Scenario(
        "F41",
        "a worker wedged",
        _wedged,
        (_node_lives_on,),
        kills_our_own=True,
        is_momentary=True,
    ),
    Scenario(
        "F42",
        "a row of garbage in the table when all nodes start",
        _bad_row,
        (),
        ({"SNAPSHOT_PATH": "off"},) * NODES,
        kills_our_own=True,
        is_momentary=True,
    ),
    Scenario(
        "F43",
        "all nodes killed and started at the same time",
        _all_killed_and_started,
        (),
        shape=_reading_alone,
        kills_our_own=True,
        is_momentary=True,
    ),
    Scenario(
        "F50",
        "no more open files",
        _few_files,
        (_lives_though_full, _answered_again_within(5.0)),
        kills_our_own=True,
    ),
    Scenario(
        "F52",
        "cut off from everything but clients",
        _cut_from_everything,
        (known_routes_answer(), p99_holds, nodes_stay_ready, old_answers_are_flagged),
        proxied=("postgres", "redis"),
    ),
]
