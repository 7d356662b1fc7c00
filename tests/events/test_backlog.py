"""What the gauges of the outbox show."""

from __future__ import annotations

import pytest

from tests.events.fakes import AT_2026, FakeDatabase, a_key
from traffic_manager.errors import SourceUnavailable
from traffic_manager.events.backlog import Backlog, backlog

NOW = AT_2026 / 1e6 + 60


@pytest.fixture
def database() -> FakeDatabase:
    database = FakeDatabase()
    database.change(a_key("a"), a_key("b"), a_key("c"))
    return database


def test_it_counts_what_lies_behind_the_checkpoint_and_how_long_the_first_waits(
    database: FakeDatabase,
) -> None:
    database.published = 1

    found = backlog(database, head_revision=3, now=lambda: NOW)

    assert (found.events, round(found.age_s)) == (2, 60)


def test_it_is_nothing_when_all_is_published(database: FakeDatabase) -> None:
    database.published = 3

    assert backlog(database, head_revision=3, now=lambda: NOW) == Backlog(0, 0.0)


def test_a_head_seen_long_ago_does_not_hide_it(database: FakeDatabase) -> None:
    database.published = 2

    assert backlog(database, head_revision=2, now=lambda: NOW).events == 1


def test_an_age_is_never_negative(database: FakeDatabase) -> None:
    assert backlog(database, head_revision=3, now=lambda: NOW - 3600).age_s == 0.0


def test_without_the_database_it_is_not_known(database: FakeDatabase) -> None:
    database.is_away = True

    with pytest.raises(SourceUnavailable):
        backlog(database, head_revision=3, now=lambda: NOW)
