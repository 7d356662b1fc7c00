"""Hints over a real database: after each commit, over connections of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.db.conftest import POSTGRES
from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import a_key, commit, create
from traffic_manager.db import postgres as postgres_module
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.leases import SqlLeases
from traffic_manager.errors import SourceUnavailable
from traffic_manager.routing.bell import Bell
from traffic_manager.routing.ports import ChangeFeed

pytestmark = pytest.mark.servers


@pytest.fixture
def bell() -> Iterator[Bell]:
    """A bell that nobody rings."""
    found = Bell()
    yield found
    found.close()


@pytest.fixture
def feed(postgres_engine: SqlEngine) -> Iterator[SqlFeed]:
    """A feed that listens."""
    found = SqlFeed(postgres_engine.database, lambda: None, listens=True)
    found.pulse(0)
    yield found
    found.close()


def heard(feed: ChangeFeed, bell: Bell, timeout_s: float = 5.0) -> list[int]:
    """Return the first hints that come, none if time is up."""
    deadline = time.monotonic() + timeout_s
    hints: list[int] = []
    while not hints and (left_s := deadline - time.monotonic()) > 0:
        hints += feed.wait(bell.fileno(), left_s)
    return hints


def test_commit_is_hinted_by_its_last_revision(postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell) -> None:
    commit(postgres_engine.store, create())
    assert heard(feed, bell) == [1]
    commit(postgres_engine.store, *(create(a_key(s)) for s in "abc"))
    assert heard(feed, bell) == [4]


def test_hint_comes_after_the_commit_is_visible(
    postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell
) -> None:
    for revision in range(1, 30):
        commit(postgres_engine.store, create(a_key(f"s{revision}")))
        assert heard(feed, bell) == [revision]
        assert feed.pulse(0).head.revision == revision


def test_refused_change_is_not_hinted(postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell) -> None:
    with pytest.raises(ZeroDivisionError), postgres_engine.store.writing([a_key()]):
        raise ZeroDivisionError
    with postgres_engine.store.writing([a_key()]):
        pass
    assert heard(feed, bell, 0.2) == []


def test_change_is_made_though_its_hint_fails(
    postgres_engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "_HINT", "select 1 / 0 * cast(:revision as bigint)")
    for revision in (1, 2):
        commit(postgres_engine.store, create(a_key(f"s{revision}")))
    assert postgres_engine.store.look_up([]).head.revision == 2


def test_lease_is_not_hinted(postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell) -> None:
    lease = SqlLeases(postgres_engine.database).acquire("relay", "me", 10.0)
    assert lease
    assert heard(feed, bell, 0.2) == []


def test_probe_is_heard_by_all_who_listen(postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell) -> None:
    other = SqlFeed(postgres_engine.database, lambda: None, listens=True)
    other.pulse(0)
    feed.probe()
    assert [heard(feed, bell), heard(other, bell)] == [[0], [0]]
    other.close()


def test_feed_that_does_not_listen_hears_nothing(postgres_engine: SqlEngine, bell: Bell) -> None:
    feed = postgres_engine.feed()
    feed.pulse(0)
    commit(postgres_engine.store, create())
    assert heard(feed, bell, 0.2) == []


def test_hint_that_comes_along_with_an_answer_is_heard(
    postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell
) -> None:
    commit(postgres_engine.store, create())
    for _ in range(50):
        feed.pulse(0)
    assert heard(feed, bell) == [1]


@pytest.mark.parametrize("payload", ["", "x", "-1", "1.5", "1e3", "٣", "9" * 7000, "4be1f0a2.1", "0x1"])
def test_nonsense_on_the_channel_harms_nobody(
    postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell, payload: str
) -> None:
    with postgres_engine.database.reading() as session:
        session.rows("select pg_notify('traffic_manager', :payload)", payload=payload)
        session.rows("select pg_notify('something_else', '5')")
    commit(postgres_engine.store, create())
    hints = heard(feed, bell)
    while 1 not in hints:
        hints = heard(feed, bell)
        assert hints
    assert feed.pulse(0).head.revision == 1


def test_connection_that_ends_is_noticed_at_once_and_the_next_one_listens(
    postgres_engine: SqlEngine, feed: SqlFeed, bell: Bell
) -> None:
    with postgres_engine.database.reading() as session:
        session.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    began = time.monotonic()
    with pytest.raises(SourceUnavailable):
        heard(feed, bell)
    assert time.monotonic() - began < 4.0
    feed.pulse(0)
    commit(postgres_engine.store, create())
    assert heard(feed, bell) == [1]


@pytest.mark.parametrize("engine", ["memory", "sqlite", POSTGRES], indirect=True)
def test_bell_ends_the_waiting(engine: Engine, bell: Bell) -> None:
    feed = engine.feed()
    feed.pulse(0)
    threading.Timer(0.05, bell.ring).start()
    began = time.monotonic()
    assert list(feed.wait(bell.fileno(), 10.0)) == []
    assert time.monotonic() - began < 5.0
    assert bell.take()


@pytest.mark.parametrize("engine", ["memory", "sqlite", POSTGRES], indirect=True)
def test_waiting_ends_in_time_and_before_the_first_call(engine: Engine, bell: Bell) -> None:
    feed = engine.feed()
    for _ in range(2):
        began = time.monotonic()
        assert list(feed.wait(bell.fileno(), 0.05)) == []
        assert 0.05 <= time.monotonic() - began < 5.0
        feed.pulse(0)
