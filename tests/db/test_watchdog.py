"""No call to a frozen PostgreSQL outlives its deadline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.db.engines import SqlEngine, postgres_settings_of
from tests.db.test_errors import timed
from tests.node import wait_until
from tests.routing.builders import a_key, commit, create
from tests.servers import PostgresServer
from traffic_manager.db.migrate import migrate
from traffic_manager.db.pool import FEED_DEADLINE_S, READ_DEADLINE_S, WRITE_DEADLINE_S
from traffic_manager.db.watchdog import Watchdog
from traffic_manager.errors import SourceUnavailable
from traffic_manager.routing.ports import ChangeFeed

ALLOWANCE_S = 0.3


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """A watchdog that watches."""
    dog = Watchdog()
    dog.start()
    yield dog
    dog.stop()


def test_call_beyond_its_deadline_loses_its_socket(watchdog: Watchdog) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, timed() as watch, watchdog.limit(ours, 0.1):
        assert ours.recv(1) == b""
    assert 0.1 <= watch.seconds < 0.1 + ALLOWANCE_S


def test_call_within_its_deadline_keeps_its_socket(watchdog: Watchdog) -> None:
    ours, theirs = socket.socketpair()
    late, other_end = socket.socketpair()
    with ours, theirs, late, other_end:
        with watchdog.limit(ours, 0.1):
            pass
        with watchdog.limit(late, 0.2):  # when this one is cut, the first deadline has long passed
            late.recv(1)
        theirs.send(b"x")
        assert ours.recv(1) == b"x"


def test_call_told_to_hurry_loses_its_socket(watchdog: Watchdog) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, timed() as watch, watchdog.limit(ours, 60.0):
        watchdog.hurry()
        assert ours.recv(1) == b""
    assert watch.seconds < ALLOWANCE_S


def test_watchdog_leaves_no_thread_and_can_watch_again() -> None:
    dog = Watchdog()
    before = threading.active_count()
    for _ in range(2):
        dog.start()
        ours, theirs = socket.socketpair()
        with ours, theirs, dog.limit(ours, 0.01):
            assert ours.recv(1) == b""
        dog.stop()
        assert threading.active_count() == before


def test_closed_connection_does_not_end_the_watchdog(watchdog: Watchdog) -> None:
    closed, other_end = socket.socketpair()
    ours, theirs = socket.socketpair()
    closed.close()
    with other_end, ours, theirs, watchdog.limit(closed, 0.01), watchdog.limit(ours, 0.1):
        assert ours.recv(1) == b""


def test_watchdog_that_never_started_stops() -> None:
    Watchdog().stop()


# -- a PostgreSQL that hangs


@pytest.fixture(scope="module")
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL that this module may freeze; the shared one only shows that it can be had."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def engine(own_server: PostgresServer) -> Iterator[SqlEngine]:
    """A pool with connections that work, to a server that is thawed in the end."""
    settings = postgres_settings_of(own_server.env())
    migrate(settings)
    engine = SqlEngine(settings)
    engine.store.look_up([])
    yield engine
    own_server.thaw()
    engine.close()


@pytest.mark.servers
def test_frozen_server_ends_reads_writes_and_polls_within_their_deadlines(
    own_server: PostgresServer, engine: SqlEngine
) -> None:
    feed = engine.feed()
    feed.pulse(0)
    own_server.freeze()
    assert seconds_to_fail(lambda: engine.store.look_up([a_key()])) < READ_DEADLINE_S + ALLOWANCE_S
    assert seconds_to_fail(lambda: commit(engine.store, create())) < WRITE_DEADLINE_S + ALLOWANCE_S
    assert seconds_to_fail(lambda: poll(feed)) < FEED_DEADLINE_S + ALLOWANCE_S


@pytest.mark.servers
def test_thawed_server_is_found_again(own_server: PostgresServer, engine: SqlEngine) -> None:
    own_server.freeze()
    with pytest.raises(SourceUnavailable):
        engine.store.look_up([a_key()])
    own_server.thaw()
    began = time.monotonic()
    wait_until(lambda: _answers(engine), what="an answer of the thawed server")
    assert time.monotonic() - began < 5.0


@pytest.mark.servers
def test_frozen_server_fails_a_new_connection_in_time(own_server: PostgresServer, engine: SqlEngine) -> None:
    own_server.freeze()
    assert seconds_to_fail(lambda: engine.feed().pulse(0)) < 2.0 + ALLOWANCE_S


def poll(feed: ChangeFeed) -> None:
    """Poll once."""
    feed.pulse(0)


def seconds_to_fail(call: Callable[[], object]) -> float:
    """Return how long *call* takes to end as SourceUnavailable."""
    with timed() as watch, pytest.raises(SourceUnavailable):
        call()
    return watch.seconds


def _answers(engine: SqlEngine) -> bool:
    try:
        engine.store.look_up([])
    except SourceUnavailable:
        return False
    return True
