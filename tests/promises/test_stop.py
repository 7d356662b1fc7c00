"""P14: stopping loses no request, and what dies is replaced or ends: nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import psycopg
import pytest

from tests.node import SOURCE, Node, wait_until, workers_of
from tests.promises import history
from tests.promises.caller import Answer, Caller, NoAnswer
from tests.promises.crew import Writer, a_crew, keys, new_url
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_database, a_node, frozen, worker_behind
from tests.servers import PostgresServer
from tests.servers.ports import is_free

pytestmark = pytest.mark.servers

KEY, OTHER, *_ = KEYS = keys(6)
SLOW_COMMIT = """
    create function dawdle() returns trigger language plpgsql as
        'begin perform pg_sleep(1.0); return null; end';
    create constraint trigger dawdle after insert on changes deferrable initially deferred
        for each row execute function dawdle();
"""
DRAIN_S = 1.5


@pytest.fixture
def database(own_postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database."""
    with a_database(own_postgres) as settings:
        yield settings


def ctrl_c(node: Node) -> None:
    """Do what a terminal does: tell the whole group."""
    os.killpg(node.pid, signal.SIGINT)


def sigterm(node: Node) -> None:
    """Do what a supervisor does."""
    os.kill(node.pid, signal.SIGTERM)


class Asking(Thread):
    """A request under way; `answer` is None if it was lost."""

    def __init__(self, ask: Callable[[], Answer | None]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        """Ask."""
        try:
            self.answer = self._ask()
        except NoAnswer:
            self.answer = None


@pytest.mark.parametrize(("stop", "workers"), [(sigterm, "1"), (sigterm, "2"), (ctrl_c, "2")])
def test_requests_in_flight_are_finished_before_the_end(
    tmp_path: Path,
    own_postgres: PostgresServer,
    database: dict[str, str],
    stop: Callable[[Node], None],
    workers: str,
) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": workers}) as node:
        node.start("--migrate")
        own_postgres.psql(SLOW_COMMIT, database["DB_NAME"])
        write = Asking(lambda: Caller(node).put(KEY, new_url()))
        poll = Asking(lambda: Caller(node).ask("GET", "/api/v1/changes?after=1&wait=30"))
        with psycopg.connect(own_postgres.conninfo(), autocommit=True) as observer:
            wait_until(lambda: is_committing(observer, database["DB_NAME"]), what="a commit under way")
        stop(node)
        assert node.wait_for_exit() == 0
        write.join()
        poll.join()
    assert write.answer is not None
    assert write.answer.status == 201
    # It asked for what comes after a revision that was not there yet.
    assert poll.answer is not None
    assert poll.answer.status in (200, 410)
    assert is_free(node.port)


def is_committing(observer: psycopg.Connection[tuple[object, ...]], database: str) -> bool:
    """Return whether a commit is under way in *database*."""
    found = observer.execute(
        "select 1 from pg_stat_activity where datname = %s and query ilike 'commit%%' and state = 'active'",
        [database],
    )
    return found.fetchone() is not None


def test_a_long_poll_is_let_go_with_an_answer(tmp_path: Path) -> None:
    with a_node(tmp_path) as node:
        caller = Caller(node.start(), timeout_s=30.0)
        poll = Asking(lambda: caller.ask("GET", "/api/v1/changes?after=0&wait=30"))
        wait_until(lambda: caller.connection and worker_behind(node, caller), 5.0, "the poll's connection")
        Caller(node).ask("GET", "/health/live")
        began = time.monotonic()
        assert node.stop() == 0
        poll.join()
        assert time.monotonic() - began < 5.0
    assert poll.answer is not None
    assert (poll.answer.status, poll.answer.json["changes"]) == (200, [])


@pytest.mark.parametrize(("stop", "workers"), [(ctrl_c, "1"), (sigterm, "2"), (ctrl_c, "2")])
def test_a_draining_node_is_not_ready_at_once_but_answers_new_connections(
    tmp_path: Path, database: dict[str, str], stop: Callable[[Node], None], workers: str
) -> None:
    settings = {**database, "API_WORKERS": workers, "DRAIN_SECONDS": str(DRAIN_S)}
    with a_node(tmp_path, settings) as node:
        Caller(node.start("--migrate")).put(KEY, new_url())
        stop(node)
        stopped_at = time.monotonic()
        wait_until(lambda: not is_ready(node), 1.0, "not ready")
        assert time.monotonic() - stopped_at < 1.0
        wait_until(partial(is_told_to_leave, node), 1.0, "Connection: close")
        while time.monotonic() - stopped_at < DRAIN_S - 0.4:
            answer = Caller(node).put(OTHER, new_url())
            assert answer is not None
            assert answer.status in (200, 201)
            assert Caller(node).ask("GET", "/health/live").status == 200
        assert node.wait_for_exit() == 0
        assert time.monotonic() - stopped_at >= DRAIN_S


def is_told_to_leave(node: Node) -> bool:
    """Return whether an answer says that its connection is closed then."""
    return Caller(node).ask("GET", "/health/live").headers.get("connection") == "close"


def is_ready(node: Node) -> bool:
    """Return whether a new connection finds it ready."""
    return Caller(node).ask("GET", "/health/ready").status == 200


def test_clients_that_heed_readiness_lose_nothing_under_load(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    ledger = Ledger()
    settings = {**database, "API_WORKERS": "2", "DRAIN_SECONDS": str(DRAIN_S)}
    with a_node(tmp_path, settings) as node:
        node.start("--migrate")
        with a_crew() as crew:
            for number in range(4):
                crew.add(Heeding(node, ledger, number))
            wait_until(lambda: len(ledger.acknowledged) > 100, 20.0, "load")
            assert node.stop() == 0
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []
    assert [write.status for write in ledger.writes if write.status in (0, 503)] == []


class Heeding:
    """A writer behind a load balancer: it goes where it is sent, which is not here once this is not ready."""

    def __init__(self, node: Node, ledger: Ledger, seed: int) -> None:
        self._writer = Writer(node, ledger, KEYS, seed)
        self._balancer = Caller(node)
        self._is_sent_elsewhere = False

    def __call__(self) -> Answer | None:
        """Write if the node is ready."""
        if self._is_sent_elsewhere or self._balancer.ask("GET", "/health/ready").status != 200:
            self._is_sent_elsewhere = True
            return None
        return self._writer()


def test_a_node_stops_in_good_order_while_its_database_is_frozen(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": "2"}) as node:
        caller = Caller(node.start("--migrate"))
        caller.put(KEY, new_url())
        with frozen(own_postgres):
            wait_until(lambda: caller.resolve(KEY).is_flagged, 5.0, "a flagged answer")
            began = time.monotonic()
            assert node.stop() == 0
            assert time.monotonic() - began < 15.0


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path, database: dict[str, str]) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": "2", "DRAIN_SECONDS": "60"}) as node:
        node.start("--migrate")
        sigterm(node)
        wait_until(lambda: not is_ready(node), 2.0, "draining")
        sigterm(node)
        node.wait_for_exit(5.0)
    assert is_free(node.port)


def test_a_killed_worker_is_replaced_within_a_second_and_leaves_no_ghost(
    tmp_path: Path, database: dict[str, str], own_postgres: PostgresServer
) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": "2"}) as node:
        caller = Caller(node.start("--migrate"))
        before = set(workers_of(node))
        wait_until(lambda: settled(node), 10.0, "metrics of both workers")
        for victim in sorted(before):
            os.kill(victim, signal.SIGKILL)
            died_at = time.monotonic()
            wait_until(partial(is_replaced, node, victim), 5.0, "two workers")
            print(f"replaced after {time.monotonic() - died_at:.2f} s")
            assert time.monotonic() - died_at < 2.0
            wait_until(lambda: is_served_by_all(node), 15.0, "an answer of both")
        wait_until(
            lambda: settled(node) == pooled(own_postgres, database), 15.0, "the metrics of two workers"
        )
        caller = Caller(node)
        caller.put(KEY, new_url())
        assert caller.resolve(KEY).status == 200


def is_replaced(node: Node, victim: int) -> bool:
    """Return whether two workers live, and *victim* is none of them."""
    workers = workers_of(node)
    return len(workers) == 2 and victim not in workers


def settled(node: Node) -> float:
    """Return the connections that the workers together have to the database; 0 before they have looked."""
    metrics = Caller(node).ask("GET", "/metrics").body.decode()
    found = re.search(r"^db_pool_size (\S+)$", metrics, re.MULTILINE)
    total = float(found[1]) if found else 0.0
    return total if total >= 4 else 0.0


def pooled(server: PostgresServer, database: dict[str, str]) -> int:
    """Return how many connections PostgreSQL itself sees, without those of the parent and the two followers."""
    ours = f"datname = '{database['DB_NAME']}' and application_name = 'traffic-manager'"
    return int(server.psql(f"select count(*) from pg_stat_activity where {ours}")) - 3  # noqa: S608 a test's own name


def is_served_by_all(node: Node) -> bool:
    """Return whether each worker answers as ready."""
    seen = set()
    for _ in range(8):
        caller = Caller(node)
        try:
            if caller.ask("GET", "/health/ready").status == 200:
                seen.add(worker_behind(node, caller))
        except NoAnswer:
            return False
        finally:
            caller.close()
    return len(seen) == len(workers_of(node))


def test_only_requests_of_a_killed_worker_fail_and_nothing_acknowledged_is_lost(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    ledger = Ledger()
    clients = 4
    with a_node(tmp_path, {**database, "API_WORKERS": "2"}) as node:
        node.start("--migrate")
        with a_crew() as crew:
            for number in range(clients):
                crew.add(Writer(node, ledger, KEYS, seed=number))
            for _ in range(3):
                wanted = len(ledger.acknowledged) + 60
                wait_until(partial(is_at_work, ledger, wanted), 20.0, "load")
                os.kill(max(workers_of(node)), signal.SIGKILL)
                wait_until(lambda: len(workers_of(node)) == 2, 5.0, "two workers")
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []
    assert sum(write.status == 0 for write in ledger.writes) <= 3 * clients


def is_at_work(ledger: Ledger, wanted: int) -> bool:
    """Return whether *wanted* writes are acknowledged."""
    return len(ledger.acknowledged) >= wanted


def test_the_workers_end_when_their_parent_is_killed(tmp_path: Path, database: dict[str, str]) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": "2"}) as node:
        node.start("--migrate")
        workers = workers_of(node)
        os.kill(node.pid, signal.SIGKILL)
        node.wait_for_exit()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10.0, "the end of all")
    assert is_free(node.port)


# Many, so that the signal comes while the parent still forks.
FORKING = """
import signal, sys
from traffic_manager.monitoring.heartbeats import Heartbeats
from traffic_manager.parent import Parent

def work(index):
    print(index, flush=True)
    while True:
        signal.pause()

class Estate:
    def __getattr__(self, name):
        return lambda *facts: None

sys.exit(Parent(40, work, Estate(), Heartbeats(40), patience_s=60.0).run())
"""


def test_a_parent_told_to_stop_while_it_forks_leaves_no_worker_behind() -> None:
    for _ in range(5):
        parent = subprocess.Popen(
            [sys.executable, "-c", FORKING], stdout=subprocess.PIPE, env={"PYTHONPATH": SOURCE}
        )
        try:
            assert parent.stdout is not None
            parent.stdout.readline()
            parent.terminate()
            assert parent.wait(10.0) == 0
            # Nobody has the pipe open any more.
            parent.stdout.read()
        finally:
            parent.kill()
            parent.wait()
