"""The relay's thread: who relays, how it goes on after trouble, how it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from tests.events.fakes import (
    OTHER_EPOCH,
    FakeDatabase,
    FakeKafka,
    a_key,
    expected_by_key,
    newest_only,
)
from tests.events.waiting import eventually
from traffic_manager.events.relay import Relay
from traffic_manager.events.retelling import Retelling
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.ports import Head


class Crash(BaseException):
    """Ends the thread as SIGKILL would end the process: nothing is tidied up."""


class Cluster:
    """Processes with a relay each, over one database and one Kafka. Each one's clock can be put forward."""

    def __init__(self) -> None:
        self.database_clock_ahead_s = 0.0
        self.database = FakeDatabase(lambda: time.monotonic() + self.database_clock_ahead_s)
        self.kafka = FakeKafka()
        self.metrics = Metrics()
        self._relays: list[Relay] = []

    def relay(self, holder: str = "one", clock: Callable[[], float] = time.monotonic) -> Relay:
        """Return a relay that has been started."""
        relay = Relay(
            self.database, self.database, self.kafka.connect, self.retell, self.metrics, holder, clock
        )
        self._relays.append(relay)
        relay.start()
        return relay

    def retell(self, head: Head) -> Retelling:
        """Return what is to be told again."""
        return Retelling(self.database, self.kafka.reader, head)

    @contextmanager
    def leading(self, holder: str = "one") -> Iterator[Relay]:
        """Lend a relay that has the lease."""
        relay = self.relay(holder)
        assert eventually(lambda: self.is_led)
        yield relay

    @property
    def is_led(self) -> bool:
        return "\ntm_relay_is_leader 1.0" in self.metrics.render().decode()

    def is_published(self) -> bool:
        """Return whether all changes are, by the checkpoint."""
        return self.database.published == len(self.database.changes)

    def is_told(self) -> bool:
        """Return whether consumers know of all changes, in the order of each route."""
        records = [(event.key, revision) for revision, event in self.kafka.records]
        return newest_only(records) == expected_by_key(self.database.changes)

    def close(self) -> None:
        """Stop all relays."""
        for relay in self._relays:
            relay.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


KEYS = [a_key(f"v{n}") for n in range(5)]


def test_it_publishes_what_was_there_and_what_comes(cluster: Cluster) -> None:
    cluster.database.change(*KEYS)
    with cluster.leading():
        cluster.database.change(*KEYS)

        assert eventually(cluster.is_published)
        assert cluster.is_told()


def test_a_wake_makes_it_look_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic_manager.events.shift.IDLE_S", 60.0)
    with cluster.leading() as relay:
        relay.wake()
        cluster.database.change(*KEYS)
        relay.wake(5)

        assert eventually(cluster.is_told, timeout_s=5)


def test_without_a_wake_it_looks_soon(cluster: Cluster) -> None:
    with cluster.leading():
        assert eventually(lambda: bool(cluster.kafka.producers))
        cluster.database.change(*KEYS)

        assert eventually(cluster.is_told, timeout_s=1)


def test_an_idle_relay_looks_ten_times_a_second(cluster: Cluster) -> None:
    with cluster.leading() as relay:
        relay.wake()
        assert eventually(lambda: bool(cluster.kafka.producers))
        calls = cluster.database.calls
        time.sleep(1)  # it is a rate that is tested

        assert 5 < cluster.database.calls - calls < 15


def test_one_of_many_relays(cluster: Cluster) -> None:
    cluster.database.change(*KEYS)
    for holder in ("one", "two", "three"):
        cluster.relay(holder)
    assert eventually(cluster.is_published)
    cluster.database.change(*KEYS)
    assert eventually(cluster.is_published)

    assert len(cluster.kafka.producers) == 1
    assert len(cluster.kafka.records) == 10, "nothing was sent twice"


def test_after_a_clean_stop_another_takes_over_in_a_second_and_sends_nothing_twice(cluster: Cluster) -> None:
    with cluster.leading() as first:
        cluster.relay("two")
        cluster.database.change(*KEYS)
        assert eventually(cluster.is_told)
        assert first.stop()
        cluster.database.change(*KEYS)

        assert eventually(cluster.is_told, timeout_s=1)
        assert len(cluster.kafka.records) == 10


def test_a_stopped_relay_is_no_leader(cluster: Cluster) -> None:
    with cluster.leading() as relay:
        relay.stop()

        assert not cluster.is_led


def test_stopping_a_relay_that_was_never_started_is_fine(cluster: Cluster) -> None:
    relay = Relay(
        cluster.database, cluster.database, cluster.kafka.connect, cluster.retell, cluster.metrics, "one"
    )

    assert relay.stop()


def test_stopping_waits_for_what_is_in_flight(cluster: Cluster) -> None:
    with cluster.leading() as relay:
        cluster.kafka.is_silent = True
        cluster.database.change(*KEYS)
        assert eventually(lambda: cluster.kafka.in_flight > 0)
        cluster.kafka.is_silent = False

        assert relay.stop()
        assert cluster.is_published()


def test_stopping_does_not_wait_for_ever(cluster: Cluster) -> None:
    with cluster.leading() as relay:
        cluster.kafka.is_silent = True
        cluster.database.change(*KEYS)
        assert eventually(lambda: cluster.kafka.in_flight > 0)

        assert relay.stop(timeout_s=1)
        assert cluster.database.published == 0


def test_it_goes_on_after_the_database_was_away(cluster: Cluster) -> None:
    with capture_logs() as logs, cluster.leading():
        cluster.database.is_away = True
        assert eventually(lambda: "relay_waits" in [line["event"] for line in logs])
        cluster.database.change(*KEYS)
        cluster.database.is_away = False
        assert eventually(cluster.is_published)

    assert [line["event"] for line in logs] == ["relay_leads", "relay_waits", "relay_goes_on"]
    assert cluster.is_told()


def test_it_starts_without_the_database(cluster: Cluster) -> None:
    cluster.database.is_away = True
    cluster.relay()
    assert eventually(lambda: cluster.database.calls > 2)
    cluster.database.change(*KEYS)
    cluster.database.is_away = False

    assert eventually(cluster.is_published)


def test_it_does_not_hammer_a_database_that_is_away(cluster: Cluster) -> None:
    with cluster.leading() as relay:
        cluster.database.is_away = True
        calls = cluster.database.calls
        for _ in range(200):
            relay.wake()
            time.sleep(0.005)

        assert cluster.database.calls - calls < 20


def test_it_goes_on_after_kafka_was_away(cluster: Cluster) -> None:
    cluster.kafka.is_away = True
    cluster.database.change(*KEYS)
    with capture_logs() as logs, cluster.leading():
        assert eventually(lambda: bool(logs) and logs[-1]["event"] == "relay_waits")
        cluster.kafka.is_away = False
        assert eventually(cluster.is_published)
        cluster.kafka.is_away = True
        cluster.database.change(*KEYS)
        assert eventually(lambda: logs[-1]["event"] == "relay_waits")
        cluster.kafka.is_away = False
        assert eventually(cluster.is_published)

    told = [line["event"] for line in logs if "kafka" in (line.get("waits_for"), line.get("waited_for"))]
    assert told == ["relay_waits", "relay_goes_on"] * 2
    assert cluster.is_told()


def test_who_cannot_reach_kafka_for_long_lets_another_try(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traffic_manager.events.relay.PATIENCE_S", 0.2)
    cut_off = FakeKafka(is_away=True)
    cluster.database.change(*KEYS)
    lonely = Relay(
        cluster.database, cluster.database, cut_off.connect, cluster.retell, cluster.metrics, "cut off"
    )
    lonely.start()
    assert eventually(lambda: cluster.is_led)
    cluster.relay("two")

    assert eventually(cluster.is_published)
    assert cut_off.records == []
    lonely.stop()


def test_a_bug_is_logged_and_does_not_end_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic_manager.events.relay._STAND_BACK_S", (0.01, 0.02))
    bugs = [ZeroDivisionError("a bug")]

    def fail_once() -> None:
        if bugs:
            raise bugs.pop()

    cluster.database.on_slice = fail_once
    cluster.database.change(*KEYS)
    with capture_logs() as logs, cluster.leading():
        assert eventually(cluster.is_published)

    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["relay_failed"]


def test_a_fork_is_told_once_and_waits_for_a_new_epoch(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traffic_manager.events.relay._FORKED_S", 0.01)
    cluster.database.change(*KEYS)
    with capture_logs() as logs, cluster.leading():
        assert eventually(cluster.is_published)
        cluster.database.lose(after=2)
        assert eventually(lambda: any(line["event"] == "history_fork" for line in logs))
        cluster.database.change(*KEYS)
        calls = cluster.database.calls
        assert eventually(lambda: cluster.database.calls > calls + 20)
        assert len(cluster.kafka.records) == 5, "a revision never means two things in one epoch"

        cluster.database.epoch, cluster.database.epoch_number = OTHER_EPOCH, 2
        assert eventually(cluster.is_published)

    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["history_fork"]
    assert sorted(cluster.kafka.revisions[-5:]) == [3, 4, 5, 6, 7]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_between_acknowledgement_and_checkpoint_loses_nothing(cluster: Cluster) -> None:
    def crash(revision: int) -> None:
        raise Crash

    cluster.database.on_publish = crash
    cluster.database.change(*KEYS, *KEYS)
    cluster.relay("one")
    assert eventually(lambda: len(cluster.kafka.records) == 10)
    assert cluster.database.published == 0

    cluster.database.on_publish = lambda revision: None
    cluster.database_clock_ahead_s += 11
    cluster.relay("two")
    assert eventually(cluster.is_published)
    assert len(cluster.kafka.records) == 20, "at least once: here, each twice"
    assert cluster.is_told()


def test_a_zombie_stops_by_its_own_clock_and_sends_nothing(cluster: Cluster) -> None:
    ahead_s = 0.0
    cluster.relay("zombie", clock=lambda: time.monotonic() + ahead_s)
    assert eventually(lambda: cluster.is_led and bool(cluster.kafka.producers))
    # As if the process had been frozen meanwhile: 11 s have passed on every clock, and another has the lease.
    with cluster.database.halted():
        ahead_s = cluster.database_clock_ahead_s = 11
    cluster.relay("two")
    cluster.database.change(*KEYS)

    assert eventually(cluster.is_published)
    assert eventually(lambda: cluster.kafka.producers[0].is_closed)
    assert len(cluster.kafka.records) == 5


def test_a_zombie_whose_clock_stood_still_is_fenced(cluster: Cluster) -> None:
    """It may send, which consumers drop; it may not move the checkpoint, which would lose changes."""
    cluster.relay("zombie")
    assert eventually(lambda: cluster.is_led and bool(cluster.kafka.producers))
    cluster.kafka.is_silent = True
    cluster.database.change(*KEYS)
    assert eventually(lambda: cluster.kafka.in_flight > 0)
    with cluster.database.halted():
        cluster.database_clock_ahead_s = 11
        lease = cluster.database.acquire("relay", "two", 10)
        assert lease
    cluster.kafka.is_silent = False

    assert eventually(lambda: cluster.kafka.producers[0].is_closed)
    assert cluster.database.checkpoints == []
    cluster.database.release(lease)
    assert eventually(cluster.is_published)
    assert cluster.is_told()
