"""Faults that are only requests, F60 to F66."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

from tests.faults.acts import again_and_again, beside, counted, seconds_until
from tests.faults.criteria import known_routes_answer, nodes_stay_ready, nothing_fails, p99_holds
from tests.faults.evidence import Evidence
from tests.faults.of_kafka import pile_up
from tests.faults.resources import used_by
from tests.faults.scenario import RECENT_CHANGES_KIB, Scenario
from tests.faults.stand import KNOWN, NODES, WORKERS, Stand
from tests.promises.caller import Caller
from tests.promises.crew import new_url
from tests.promises.ledger import Kind
from tests.servers.ports import HOST

_NAMES = 100_000
_BUDGET = 20
_NOISY_LIMIT = 10
_TIMES = 20
_NOISY_CALLERS = 4
_CAUGHT_UP_S = 30.0
_SLOW_CLIENTS = 2000
_NOTICED_S = 5.0
_MORE_MEMORY_KIB = 10 * 1024


@contextmanager
def _random_names(stand: Stand) -> Iterator[None]:
    """As many resolves of made-up names as there are of others."""
    before = used_by(stand)
    flood = replace(
        stand.load(),
        unknown_share=1.0,
        unknown_names=_NAMES,
        strong_resolves=0,
        writes=0,
        probes=0,
        known=(),
    )
    with counted(stand, 0, "resolve_cache_miss_total"), counted(stand, 1, "resolve_cache_miss_total"):
        with beside(stand, flood):
            yield
        more_kib = used_by(stand).memory_kib - before.memory_kib
    if more_kib > _MORE_MEMORY_KIB:
        stand.findings.append(f"the nodes took {more_kib} KiB more")


def _database_is_asked_within_the_budget(evidence: Evidence) -> Sequence[str]:
    """A complete mirror asks nobody, a bounded one no more often than it may."""
    took_s = (evidence.times.healed_ns - evidence.times.breaks_ns) / 1e9
    # What a bounded mirror looks up of routes, and strong reads, are no look-ups of unknown names.
    others = [e for e in evidence.since_broken(Kind.STRONG, Kind.KNOWN, Kind.CHANGING) if e.node == 1]
    most = {0: len(evidence.since_broken(Kind.STRONG)), 1: _BUDGET * WORKERS * (took_s + 1) + len(others)}
    asked = {node: evidence.measured[f"resolve_cache_miss_total/{node}"] for node in most}
    return [
        f"node {node} looked up {asked[node]:.0f}, not {most[node]:.0f}"
        for node in most
        if asked[node] > most[node]
    ]


def _refused_are_told_when_to_come_again(evidence: Evidence) -> Sequence[str]:
    """Unknown names are answered 404 or, where the budget is used up, 503."""
    asked = evidence.since_broken(Kind.UNKNOWN)
    wrong = [e for e in asked if e.status != 404 and not (e.status == 503 and e.retry_after_s)]
    refused = sum(e.status == 503 for e in asked)
    found = [f"{len(wrong)} unknown names were answered wrongly: {wrong[0]}"] if wrong else []
    return found if refused else [*found, "the budget was never used up"]


@contextmanager
def _hottest_changed(stand: Stand) -> Iterator[None]:
    """Change the route that is asked for most, twenty times a second, while more than usual ask for it."""
    hottest = Caller(stand.nodes[0], stand.ledger)
    readers = replace(
        stand.load(), known=KNOWN[:1], resolves=400.0, unknown_share=0, strong_resolves=0, writes=0, probes=0
    )
    with ExitStack() as stack:
        for node in range(NODES):
            stack.enter_context(counted(stand, node, "resolve_cache_miss_total"))
        stack.enter_context(beside(stand, readers))
        stack.enter_context(again_and_again(lambda: hottest.put(KNOWN[0], new_url()), 0.05))
        yield


def _one_look_up_a_change(evidence: Evidence) -> Sequence[str]:
    """A change makes each worker look its route up once at most."""
    looked_up = sum(evidence.series("resolve_cache_miss_total"))
    strong = len(evidence.since_broken(Kind.STRONG, Kind.TOKEN))
    changes = sum(write.began_ns > evidence.times.breaks_ns for write in evidence.ledger.writes)
    most = changes * NODES * WORKERS + strong
    return [f"{looked_up:.0f} look-ups for {changes} changes"] if looked_up > most else []


@contextmanager
def _noisy_tenant(stand: Stand) -> Iterator[None]:
    """List routes of one tenant twenty times as often as it may, at every node: the dearest way to be refused."""
    callers = [Caller(node) for node in stand.nodes for _ in range(_NOISY_CALLERS)]
    answers: list[int] = []
    began = time.monotonic()
    with ExitStack() as stack:
        for caller in callers:
            ask = partial(_ask_noisily, caller, answers)
            stack.enter_context(again_and_again(ask, len(callers) / (_TIMES * _NOISY_LIMIT)))
        yield
    statuses = Counter(answers)
    stand.measured["noisy/seconds"] = time.monotonic() - began
    stand.measured["noisy/accepted"] = statuses[200]
    stand.measured["noisy/refused"] = statuses[429]
    if others := statuses.keys() - {200, 429}:
        stand.findings.append(f"the noisy tenant was answered {others}")


def _ask_noisily(caller: Caller, answers: list[int]) -> None:
    answers.append(caller.ask("GET", "/api/v1/routes?tenant=noisy").status)


def _no_more_than_its_limit(evidence: Evidence) -> Sequence[str]:
    """A second's worth is there at first; of all that comes in after that, 110 % at most is let through."""
    accepted, refused = evidence.measured["noisy/accepted"], evidence.measured["noisy/refused"]
    most = 1.1 * _NOISY_LIMIT * (evidence.measured["noisy/seconds"] + 1)
    found = [f"{accepted:.0f} were let through, not {most:.0f}"] if accepted > most else []
    return found if refused else [*found, "nothing was refused: was it noisy at all?"]


@contextmanager
def _burst_of_changes(stand: Stand) -> Iterator[None]:
    """Make a hundred thousand changes as fast as they are taken; all workers have them soon."""
    pile_up(stand, stand.phases.rounds(10, 100))
    head = int(stand.ask_database("select max(revision) from changes"))
    for node in range(NODES):
        _see_applied(stand, node, head)
    yield


def _see_applied(stand: Stand, node: int, head: int) -> None:
    if seconds_until(lambda: stand.metric(node, "tm_applied_revision") >= head, _CAUGHT_UP_S) >= _CAUGHT_UP_S:
        stand.findings.append(f"node {node} is behind after {_CAUGHT_UP_S} s")


@contextmanager
def _slow_clients(stand: Stand) -> Iterator[None]:
    """Hold connections on which a request comes byte by byte, or none at all."""
    clients = [
        socket.create_connection((HOST, node.port), timeout=2.0)
        for node in stand.nodes
        for _ in range(_SLOW_CLIENTS // NODES)
    ]
    try:
        with again_and_again(lambda: _drip(clients), 1.0):
            yield
    finally:
        for client in clients:
            client.close()


def _drip(clients: Sequence[socket.socket]) -> bool:
    """Send one byte on every other connection; the server may have closed it."""
    for client in clients[::2]:
        with suppress(OSError):
            client.send(b"G")
    return True


@contextmanager
def _newer_schema(stand: Stand) -> Iterator[None]:
    """Migrate the database further than this program knows."""
    version = stand.ask_database("select version_num from alembic_version")
    stand.ask_database("update alembic_version set version_num = '9999'")
    yield
    stand.ask_database(f"update alembic_version set version_num = '{version}'")  # noqa: S608 the table's own


def _nodes_turn_unready(evidence: Evidence) -> Sequence[str]:
    """Nodes that must not use the tables say so."""
    ready = [e for e in evidence.broken(Kind.READY, after_s=_NOTICED_S) if e.status == 200]
    return [f"{len(ready)} probes found a node ready, such as {ready[0]}"] if ready else []


SCENARIOS = [
    Scenario(
        "F60",
        "as many made-up names as routes",
        _random_names,
        (
            known_routes_answer(),
            p99_holds,
            nodes_stay_ready,
            _database_is_asked_within_the_budget,
            _refused_are_told_when_to_come_again,
        ),
        ({}, {"MIRROR_MAX_ROUTES": "500", "UNKNOWN_NAMES_PER_SECOND": str(_BUDGET)}),
    ),
    Scenario(
        "F61",
        "the hottest route changed all the time",
        _hottest_changed,
        (known_routes_answer(), nodes_stay_ready, _one_look_up_a_change),
    ),
    Scenario(
        "F63",
        "a tenant that asks for twenty times what it may",
        _noisy_tenant,
        (known_routes_answer(), p99_holds, nodes_stay_ready, nothing_fails, _no_more_than_its_limit),
        ({"LIMIT_TENANT_LISTS": str(_NOISY_LIMIT), "LIMIT_NODES": str(NODES)},) * NODES,
    ),
    Scenario(
        "F64",
        "a burst of changes",
        _burst_of_changes,
        (known_routes_answer(), nodes_stay_ready),
        fills_kib=RECENT_CHANGES_KIB,
        is_momentary=True,
    ),
    Scenario(
        "F65",
        "two thousand slow clients",
        _slow_clients,
        (known_routes_answer(), p99_holds, nodes_stay_ready),
    ),
    Scenario(
        "F66",
        "tables of a later version",
        _newer_schema,
        (known_routes_answer(), _nodes_turn_unready),
    ),
]
