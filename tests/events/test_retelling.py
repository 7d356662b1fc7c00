"""After a fork, and in another topic, consumers that keep the rule end up with exactly the routes that there are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.fakes import OTHER_EPOCH, FakeDatabase, FakeKafka, a_change, a_key
from tests.events.test_docs import the_rule
from tests.events.waiting import eventually
from traffic_manager.errors import SourceUnavailable
from traffic_manager.events.audience import Audience
from traffic_manager.events.delivery import Topic
from traffic_manager.events.reader import ChangeReader
from traffic_manager.events.relay import Relay
from traffic_manager.events.replay import retell
from traffic_manager.events.retelling import EpochLeft, Retelling
from traffic_manager.events.shift import Shift
from traffic_manager.events.tenure import Tenure
from traffic_manager.events.trouble import Trouble
from traffic_manager.events.waves import Waves
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.leases import Telling
from traffic_manager.routing.model import Action, RouteKey
from traffic_manager.routing.ports import Head

A, B, C, D = (a_key(name) for name in "abcd")


def make(database: FakeDatabase, key: RouteKey, action: Action = Action.UPDATED) -> None:
    """Make one change."""
    revision = len(database.changes) + 1
    url = None if action is Action.DELETED else f"https://{database.epoch_number}.example.com/{revision}"
    database.append(a_change(revision, key, action=action, url=url, is_active=url is not None))


def fork(database: FakeDatabase, after: int) -> None:
    """Lose the changes after *after*, as a restored backup does, and begin another epoch."""
    database.lose(after)
    database.epoch, database.epoch_number = f"{database.epoch_number:032x}", database.epoch_number + 1


def held(kafka: FakeKafka) -> dict[str, str | None]:
    """Return the URLs that a consumer holds who keeps the rule as docs/events.md has it."""
    is_news, routes = the_rule(), {}
    for _, event in kafka.records:
        if is_news(event.key, event.value):
            routes[event.key.decode()] = json.loads(event.value)["url"]
    return {key: url for key, url in routes.items() if url is not None}


def there(database: FakeDatabase) -> dict[str, str | None]:
    """Return the URLs of the routes that there are."""
    _, changes = database.page(None, 1000)
    return {str(change.key): change.url for change in changes}


@contextmanager
def relaying(database: FakeDatabase, kafka: FakeKafka, metrics: Metrics | None = None) -> Iterator[None]:
    """Relay until all is published."""

    def retelling(head: Head) -> Retelling:
        return Retelling(database, kafka.reader, head)

    relay = Relay(database, database, kafka.connect, retelling, metrics or Metrics(), "one")
    relay.start()
    yield
    assert eventually(
        lambda: (
            database.published == len(database.changes)
            and database.known.epoch_number == database.epoch_number
        )
    )
    assert relay.stop()


def test_what_only_the_lost_branch_had_is_told_as_it_was_before_or_as_deleted() -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    for key in (A, B, C):
        make(database, key)
    with relaying(database, kafka):
        pass
    make(database, A)  # another URL
    make(database, B, Action.DELETED)
    make(database, D)  # a route that only the lost branch has
    with relaying(database, kafka):
        pass
    fork(database, after=3)
    with relaying(database, kafka):
        pass
    assert held(kafka) == there(database) == {str(key): there(database)[str(key)] for key in (A, B, C)}


def test_later_changes_count_more_than_what_was_told_again() -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    for key in (A, B, A, C):
        make(database, key)
    with relaying(database, kafka):
        pass
    fork(database, after=1)
    with relaying(database, kafka):
        make(database, C)  # deleted by the retelling, if it came first; and created again
    assert held(kafka) == there(database)


def test_all_is_told_once_in_each_epoch() -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    make(database, A)
    with relaying(database, kafka):
        pass
    fork(database, after=1)
    for _ in range(3):
        with relaying(database, kafka):
            pass
    assert kafka.revisions == [1, 1]
    assert database.known == Telling(2)


@pytest.mark.parametrize(
    "other", [Topic("another", 4), Topic("one", 8)], ids=["made again", "more partitions"]
)
def test_all_is_told_to_another_topic(other: Topic) -> None:
    database, kafka, metrics = FakeDatabase(), FakeKafka(topic=Topic("one", 4)), Metrics()
    for key in (A, B, A):
        make(database, key)
    with relaying(database, kafka, metrics):
        pass
    assert kafka.revisions == [1, 2, 3] or kafka.revisions == [2, 1, 3], "the first topic is no other"
    kafka.records.clear()
    kafka.topic = other
    with relaying(database, kafka, metrics):
        assert eventually(lambda: database.known.partitions == other.partitions and len(kafka.records) == 2)
    assert held(kafka) == there(database)
    assert (database.known.topic, database.known.partitions) == (other.id, other.partitions)


def test_a_topic_that_is_not_known_yet_is_taken_for_the_one_before() -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    database.known = Telling(1, "one", 4)
    make(database, A)
    with relaying(database, kafka):
        pass
    assert kafka.revisions == [1]


def test_it_goes_on_where_the_database_failed() -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    for key in (A, B):
        make(database, key)
    with relaying(database, kafka):
        pass
    fork(database, after=0)
    retelling = Retelling(database, kafka.reader, database.pulse(0).head)
    told: list[Waves] = []
    while len(told) < 3:  # two reads of the topic, and the routes, of which there are none
        told.append(retelling.read() or Waves((), 0))
    database.is_away = True
    with pytest.raises(SourceUnavailable):
        retelling.read()
    database.is_away = False
    gone = retelling.read()
    assert gone is not None
    assert {outgoing.event.key.decode() for outgoing in gone.next_wave()} == {str(A), str(B)}


def test_an_epoch_that_ends_meanwhile_is_noticed() -> None:
    database = FakeDatabase()
    make(database, A)
    retelling = Retelling(database, FakeKafka().reader, database.pulse(0).head)
    retelling.read()
    database.epoch = OTHER_EPOCH
    with pytest.raises(EpochLeft):
        retelling.read()


def test_all_is_told_when_it_is_asked_for() -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    for key in (A, B, A):
        make(database, key)
    refused = retell(database, lambda head: Retelling(database, kafka.reader, head), kafka.connect, Metrics())
    assert refused == []
    assert held(kafka) == there(database)
    assert (database.published, database.known) == (0, Telling(1)), "it moves nothing of the relay's"


_actions = st.lists(
    st.tuples(st.sampled_from([A, B, C, D]), st.sampled_from([Action.UPDATED, Action.DELETED]))
)


def relay_all(database: FakeDatabase, kafka: FakeKafka) -> None:
    """Relay until all is published, on this thread."""
    lease = database.acquire("relay", "one", 60)
    assert lease
    tenure = Tenure(database, lease, time.monotonic, time.monotonic())
    metrics, clock = Metrics(), time.monotonic
    troubles = Trouble("database", clock), Trouble("kafka", clock)
    audience = Audience(tenure, lambda head: Retelling(database, kafka.reader, head), metrics)
    shift = Shift(tenure, ChangeReader(database), kafka.connect, metrics, *troubles, time.monotonic, audience)
    while not (shift.is_idle and database.known.epoch_number == database.epoch_number):
        shift.step()
    shift.finish(time.monotonic() + 1)
    shift.close()


@settings(deadline=None)
@given(before=_actions, lost=_actions, after=_actions, published=st.integers(0, 20))
def test_consumers_end_up_with_the_table_whatever_was_lost(
    before: list[tuple[RouteKey, Action]],
    lost: list[tuple[RouteKey, Action]],
    after: list[tuple[RouteKey, Action]],
    published: int,
) -> None:
    database, kafka = FakeDatabase(), FakeKafka()
    for key, action in before:
        make(database, key, action)
    kept = len(database.changes)
    for key, action in lost:
        make(database, key, action)
    relay_all(database, kafka)
    fork(database, kept)
    database.published = min(kept, published)  # the backup is older than what was sent
    for key, action in after:
        make(database, key, action)
    relay_all(database, kafka)
    assert held(kafka) == there(database)
