"""A database that is away is left alone: nobody waits for it, it is dialled seldom, and found again soon."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.clock import Clock
from tests.db.engines import SqlEngine, postgres_settings_of
from tests.db.test_errors import all_connections_in_use, timed
from tests.node import wait_until
from tests.routing.builders import a_key
from tests.servers import PostgresServer
from tests.servers.ports import HOST
from traffic_manager.db import lender
from traffic_manager.db.breaker import FAILURES_TO_OPEN, PROBE_EVERY_S, Breaker, Dialling
from traffic_manager.db.migrate import migrate
from traffic_manager.errors import Busy, SourceUnavailable


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def fail(breaker: Breaker, times: int = FAILURES_TO_OPEN) -> None:
    """Have so many calls fail."""
    for _ in range(times):
        breaker.failed(breaker.check())


def lets_through(breaker: Breaker) -> bool:
    """Return whether a call may be made now."""
    with suppress(SourceUnavailable):
        breaker.check()
        return True
    return False


def test_calls_fail_at_once_after_a_few_that_were_not_answered(breaker: Breaker) -> None:
    fail(breaker, FAILURES_TO_OPEN - 1)
    assert lets_through(breaker)
    fail(breaker, 1)
    assert (breaker.is_open, lets_through(breaker)) == (True, False)


def test_one_answer_closes_it(breaker: Breaker) -> None:
    fail(breaker)
    breaker.succeeded()
    assert (breaker.is_open, lets_through(breaker)) == (False, True)


def test_failures_count_only_if_nobody_was_answered_since_they_began(breaker: Breaker, clock: Clock) -> None:
    began = [breaker.check() for _ in range(FAILURES_TO_OPEN)]
    clock.now += 1.0
    breaker.succeeded()
    for moment in began:
        breaker.failed(moment)
    assert not breaker.is_open


def test_one_caller_in_two_seconds_finds_out_whether_it_is_back(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    let_through = 0
    for _ in range(600):
        clock.now += 0.1
        let_through += sum(lets_through(breaker) for _ in range(3))
    assert 60 / (PROBE_EVERY_S * 1.3) - 1 <= let_through <= 60 / (PROBE_EVERY_S * 0.7)


def test_failures_of_those_who_find_out_keep_it_open(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 2 * PROBE_EVERY_S
    breaker.failed(breaker.check())
    assert not lets_through(breaker)


def dials(dialling: Dialling, clock: Clock, seconds: float) -> int:
    """Return how often a connection is tried in that time by somebody who always wants one."""
    tried = 0
    for _ in range(round(seconds / 0.01)):
        clock.now += 0.01
        with suppress(SourceUnavailable):
            dialling.begin()
            tried += 1
    return tried


def test_connections_that_do_not_come_up_are_tried_about_once_a_second(clock: Clock) -> None:
    dialling = Dialling(clock)
    dials(dialling, clock, 1.0)
    assert 35 <= dials(dialling, clock, 60.0) <= 80


def test_connections_that_come_up_are_tried_whenever_somebody_wants_one(clock: Clock) -> None:
    dialling = Dialling(clock)
    dials(dialling, clock, 10.0)
    dialling.came_up()
    for _ in range(10):
        dialling.begin()
        dialling.came_up()


# -- a real PostgreSQL


@pytest.fixture
def engine(postgres_settings: dict[str, str]) -> Iterator[SqlEngine]:
    """A database whose pool this test may starve."""
    settings = postgres_settings_of(postgres_settings).model_copy(update={"pool_min": 1, "pool_max": 4})
    migrate(settings)
    engine = SqlEngine(settings)
    wait_until(lambda: answers(engine), what="the first answer")
    yield engine
    engine.close()


def answers(engine: SqlEngine) -> bool:
    """Return whether the database answers now."""
    with suppress(SourceUnavailable):
        engine.store.look_up([])
        return True
    return False


@contextmanager
def silence() -> Iterator[tuple[int, list[socket.socket]]]:
    """Listen on a port and say nothing to those who come."""
    with socket.create_server((HOST, 0)) as listener:
        came: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    came.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1], came
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in came:
            connection.close()


@pytest.mark.servers
def test_nobody_waits_for_a_database_that_says_nothing_and_it_is_dialled_seldom(
    postgres: PostgresServer,
) -> None:
    with silence() as (port, came):
        engine = SqlEngine(postgres_settings_of(postgres.env()).model_copy(update={"port": port}))
        wait_until(lambda: not answers(engine) and engine.database.is_left_alone, what="an open breaker")
        before, began, slow = len(came), time.monotonic(), 0
        while time.monotonic() - began < 4.0:
            with timed() as watch:
                assert not answers(engine)
            slow += watch.seconds > 0.1
            with suppress(SourceUnavailable):
                engine.feed().pulse(0)
        engine.close()
    assert slow <= 3  # one in two seconds, give or take a third
    assert len(came) - before <= 8


@pytest.mark.servers
def test_full_pool_and_slow_statements_do_not_open_it(engine: SqlEngine) -> None:
    feed = engine.feed()
    for _ in range(2):
        with all_connections_in_use(engine):
            for _ in range(3):
                with pytest.raises(Busy):
                    engine.store.look_up([a_key()])
    assert not engine.database.is_left_alone
    feed.pulse(0)


@pytest.mark.servers
def test_follower_that_reaches_the_database_lets_everybody_ask_again(engine: SqlEngine) -> None:
    breaker = engine.database._breaker  # type: ignore[attr-defined] # of PostgreSQL's alone
    fail(breaker)
    assert not answers(engine)
    engine.feed().pulse(0)
    assert answers(engine)


@pytest.mark.servers
def test_pool_that_has_lost_count_is_replaced_if_others_reach_the_database(
    engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lender, "_STARVED_S", 0.5)
    lending = engine.database._lender  # type: ignore[attr-defined] # of PostgreSQL's alone
    pool = lending._pool
    wait_until(lambda: not pool._growing and pool._nconns == len(pool._pool), what="a pool at rest")
    # What the bugs of psycopg leave behind: no connection, and the belief that as many as may be are there.
    pool._pool.clear()
    pool._nconns = pool.max_size
    assert not answers(engine)
    feed = engine.feed()

    def finds_back() -> bool:
        feed.pulse(0)
        return answers(engine)

    wait_until(finds_back, 10.0, "an answer over another pool")
    assert engine.counts.replaced == 1
    with all_connections_in_use(engine), pytest.raises(Busy):
        engine.store.look_up([a_key()])
