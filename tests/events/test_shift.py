"""What a relay with the lease does, step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tests.events.fakes import OTHER_EPOCH, Clock, FakeDatabase, FakeKafka, a_key
from traffic_manager.events.delivery import Failure, KafkaUnavailable
from traffic_manager.events.reader import ChangeReader, HistoryForked
from traffic_manager.events.shift import MOST_TRIES, PATIENCE_S, SILENCE_S, Shift
from traffic_manager.events.tenure import TTL_S, LeaseLost, Tenure
from traffic_manager.events.trouble import Trouble
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.leases import RELAY_LEASE


class Rig:
    """A shift over a database and a Kafka in memory, with one clock for all."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.database = FakeDatabase(self.clock)
        self.kafka = FakeKafka()
        self.kafka.on_wait = lambda: self.clock.advance(0.1)
        self.metrics = Metrics()
        self.kafka_trouble = Trouble("kafka", self.clock)
        self.reader = ChangeReader(self.database)
        self.shift = self.begin()

    def begin(self) -> Shift:
        """Return the shift of the next holder of the lease."""
        lease = self.database.acquire(RELAY_LEASE, "one", TTL_S)
        assert lease
        return Shift(
            tenure=Tenure(self.database, lease, self.clock, self.clock()),
            reader=self.reader,
            connect=self.kafka.connect,
            metrics=self.metrics,
            database=Trouble("database", self.clock),
            kafka=self.kafka_trouble,
            clock=self.clock,
        )

    def run(self, seconds: float = 1.0, until: Callable[[], bool] = lambda: False) -> None:
        """Step for *seconds*, as the relay's thread would."""
        end = self.clock() + seconds
        while self.clock() < end and not until():
            self.clock.advance(self.shift.step() or 0.01)

    def count(self, name: str) -> float:
        """Return the sum of a counter over its labels."""
        lines = self.metrics.render().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_every_change_is_sent_once_and_the_checkpoint_follows(rig: Rig) -> None:
    rig.database.change(a_key("a"), a_key("b"), a_key("a"))
    rig.run()

    assert sorted(rig.kafka.revisions) == [1, 2, 3]
    assert rig.database.published == 3
    assert rig.count("kafka_events_published_total") == 3


def test_changes_of_one_route_are_sent_in_their_order(rig: Rig) -> None:
    rig.database.change(*[a_key("a")] * 50)
    rig.run(seconds=5)

    assert rig.kafka.revisions == list(range(1, 51))


def test_changes_of_many_routes_are_sent_together(rig: Rig) -> None:
    rig.database.change(*(a_key(f"v{n}") for n in range(50)))
    rig.run()

    assert rig.kafka.producers[0].largest_wave == 50


def test_the_checkpoint_never_covers_what_is_not_acknowledged(rig: Rig) -> None:
    rig.kafka.is_silent = True
    rig.database.change(a_key("a"))
    rig.run(seconds=2)

    assert rig.kafka.in_flight == 1
    assert rig.database.published == 0


def test_a_stream_of_single_changes_shares_checkpoints(rig: Rig) -> None:
    for _ in range(100):
        rig.database.change(a_key("a"))
        rig.run(seconds=0.01)
    rig.run()

    assert rig.database.published == 100
    assert len(rig.database.checkpoints) < 15


def test_changes_of_other_kinds_move_the_checkpoint_without_an_event(rig: Rig) -> None:
    rig.database.change_of_other_kind()
    rig.run()

    assert rig.kafka.revisions == []
    assert rig.database.published == 1


def test_an_event_that_is_always_refused_is_set_aside_loudly_and_the_others_go_on(rig: Rig) -> None:
    rig.kafka.rejected = {2}
    rig.database.change(a_key("a"), a_key("b"), a_key("c"), a_key("b"))
    with capture_logs() as logs:
        rig.run(seconds=5)

    errors = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in errors] == ["event_set_aside"]
    assert (errors[0]["route"], errors[0]["revision"]) == ("team-a/payments/prod/b", 2)
    assert sorted(rig.kafka.revisions) == [1, 3, 4]
    assert (rig.database.published, rig.database.aside) == (4, {2: "too large"})
    assert rig.count("kafka_events_failed_total") == MOST_TRIES + 1, "once in company, and alone"


def test_the_checkpoint_does_not_pass_an_event_that_is_still_tried(rig: Rig) -> None:
    rig.kafka.rejected = {2}
    rig.database.change(a_key("a"), a_key("b"), a_key("c"))
    rig.run(until=lambda: 3 in rig.kafka.revisions and rig.database.published > 0)

    assert (rig.database.published, rig.database.aside) == (1, {})


def test_no_event_is_set_aside_for_its_company(rig: Rig) -> None:
    rig.kafka.most_together = 1
    rig.database.change(*(a_key(f"v{n}") for n in range(5)))
    rig.run(seconds=3)

    assert sorted(rig.kafka.revisions) == [1, 2, 3, 4, 5]
    assert rig.database.aside == {}


def test_an_event_cannot_be_set_aside_by_one_who_has_lost_the_lease(rig: Rig) -> None:
    rig.kafka.rejected = {1}
    rig.database.change(a_key("a"))
    rig.run(until=lambda: rig.count("kafka_events_failed_total") == MOST_TRIES)
    rig.database._token += 1
    with pytest.raises(LeaseLost):
        rig.run(seconds=2)

    assert (rig.database.published, rig.database.aside) == (0, {})


def test_events_rejected_together_are_sent_one_by_one(rig: Rig) -> None:
    """Kafka judges a batch by its size, so good events may be refused with their neighbours."""
    rig.kafka.most_together = 1
    rig.database.change(*(a_key(f"v{n}") for n in range(5)))
    rig.run(seconds=3)

    assert sorted(rig.kafka.revisions) == [1, 2, 3, 4, 5]
    assert rig.database.published == 5


def test_after_a_rejection_waves_are_large_again_with_the_next_slice(rig: Rig) -> None:
    rig.kafka.most_together = 1
    rig.database.change(*(a_key(f"v{n}") for n in range(5)))
    rig.run(seconds=3)
    rig.kafka.most_together = None
    rig.kafka.producers[0].largest_wave = 0
    rig.database.change(*(a_key(f"v{n}") for n in range(5)))
    rig.run()

    assert rig.kafka.producers[0].largest_wave == 5


def test_a_failure_of_kafka_raises_and_another_producer_sends_again(rig: Rig) -> None:
    rig.database.change(a_key("a"), a_key("b"))
    rig.kafka.failing = Failure("OUT_OF_ORDER_SEQUENCE_NUMBER", "out of order", is_rejection=False)
    with pytest.raises(KafkaUnavailable):
        rig.run()
    rig.shift.replace_producer()
    rig.kafka.failing = None
    rig.run()

    assert [producer.is_closed for producer in rig.kafka.producers] == [True, False]
    assert sorted(rig.kafka.revisions) == [1, 2]
    assert rig.database.published == 2


def test_events_given_up_count_as_failed(rig: Rig) -> None:
    rig.kafka.is_silent = True
    rig.database.change(a_key("a"), a_key("b"))
    rig.run(seconds=0.1)
    rig.shift.replace_producer()

    assert rig.count("kafka_events_failed_total") == 2


def test_silence_of_kafka_is_told_once(rig: Rig) -> None:
    rig.kafka.is_silent = True
    rig.database.change(a_key("a"))
    with capture_logs() as logs:
        rig.run(seconds=SILENCE_S - 1)
        assert logs == []
        rig.run(seconds=PATIENCE_S - SILENCE_S - 1)

    assert [(line["event"], line["waits_for"], line["kind"]) for line in logs] == [
        ("relay_waits", "kafka", "silent")
    ]


def test_patience_with_a_silent_kafka_has_an_end(rig: Rig) -> None:
    rig.kafka.is_silent = True
    rig.database.change(a_key("a"))

    with pytest.raises(KafkaUnavailable):
        rig.run(seconds=PATIENCE_S + 1)


def test_an_idle_kafka_is_not_silent(rig: Rig) -> None:
    with capture_logs() as logs:
        rig.run(seconds=2 * PATIENCE_S)
        rig.database.change(a_key("a"))
        rig.run()

    assert logs == []
    assert rig.kafka.revisions == [1]


def test_the_lease_is_kept_while_kafka_is_silent(rig: Rig) -> None:
    rig.kafka.is_silent = True
    rig.database.change(a_key("a"))
    rig.run(seconds=PATIENCE_S - 1)

    assert rig.database.acquire(RELAY_LEASE, "two", TTL_S) is None


def test_the_lease_is_looked_at_before_anything_is_sent(rig: Rig) -> None:
    rig.run(seconds=0.1)
    rig.database.change(a_key("a"))
    rig.clock.advance(8)

    with pytest.raises(LeaseLost):
        rig.shift.step()
    assert rig.kafka.revisions == []


def test_what_is_in_flight_is_purged_at_the_end(rig: Rig) -> None:
    rig.kafka.is_silent = True
    rig.database.change(a_key("a"))
    rig.run(seconds=0.1)
    rig.shift.close()

    assert rig.kafka.producers[0].is_closed
    assert rig.database.acquire(RELAY_LEASE, "two", TTL_S), "the lease was released"


def test_the_next_shift_sends_again_what_lies_behind_the_checkpoint(rig: Rig) -> None:
    rig.database.change(a_key("a"), a_key("b"), a_key("a"))
    rig.run(until=lambda: len(rig.kafka.records) == 3)
    assert rig.database.published == 0
    rig.shift.close()
    rig.shift = rig.begin()
    rig.run()

    assert sorted(rig.kafka.revisions) == [1, 1, 2, 2, 3, 3]
    assert rig.database.published == 3


def test_finishing_waits_for_what_is_in_flight_and_sends_nothing_new(rig: Rig) -> None:
    rig.database.change(a_key("a"), a_key("a"))
    rig.kafka.is_silent = True
    rig.run(seconds=0.1)
    rig.kafka.is_silent = False
    rig.shift.finish(rig.clock() + 3)

    assert rig.kafka.revisions == [1]
    assert rig.database.published == 1


def test_finishing_has_an_end(rig: Rig) -> None:
    rig.database.change(a_key("a"))
    rig.kafka.is_silent = True
    rig.run(seconds=0.1)
    began = rig.clock()
    rig.shift.finish(began + 3)

    assert 3 <= rig.clock() - began < 3.2
    assert rig.database.published == 0


def test_after_a_fork_it_goes_on_from_the_checkpoint_of_the_new_history(rig: Rig) -> None:
    rig.database.change(*(a_key(f"v{n}") for n in range(5)))
    rig.run()
    rig.database.lose(after=2)
    rig.database.epoch, rig.database.epoch_number = OTHER_EPOCH, 2
    rig.database.change(a_key("new"))
    with pytest.raises(HistoryForked):
        rig.run()
    rig.shift.begin_again()
    rig.run()

    assert rig.kafka.revisions[5:] == [3]
    assert rig.kafka.records[-1][1].headers[1] == ("ce_id", f"{OTHER_EPOCH}:3".encode())
    assert rig.database.published == 3


def test_a_checkpoint_beyond_the_head_is_an_alarm_and_hides_no_later_change(rig: Rig) -> None:
    rig.database.change(a_key("a"), a_key("b"))
    rig.database.published = 5
    with capture_logs() as logs:
        rig.run()
    assert [line["event"] for line in logs] == ["checkpoint_beyond_head"]
    assert rig.database.published == 2

    # The head passes the old checkpoint, and another process takes over.
    rig.shift.close()
    rig.database.change(*(a_key(f"v{n}") for n in range(6)))
    rig.shift = rig.begin()
    rig.run()
    assert sorted(rig.kafka.revisions) == [3, 4, 5, 6, 7, 8]
