"""Never two events of a key in flight, and nothing counts as sent that is not acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.events.fakes import EPOCH, a_change, a_key, newest_only
from traffic_manager.events.envelope import event_of
from traffic_manager.events.waves import Outgoing, Waves


def waves_of(*versions: str, first: int = 1, upto: int = 0) -> Waves:
    """Return the waves of one change of each route in *versions*, numbered from *first*."""
    changes = [a_change(first + index, a_key(version)) for index, version in enumerate(versions)]
    outgoing = [Outgoing(c.revision, c.action, event_of(c, EPOCH, 1)) for c in changes]
    return Waves(outgoing, upto or first + len(versions) - 1)


def revisions(wave: list[Outgoing]) -> list[int]:
    return [outgoing.revision for outgoing in wave]


def test_a_wave_has_the_first_event_of_each_key() -> None:
    assert revisions(waves_of("a", "b", "a", "c", "b").next_wave()) == [1, 2, 4]


def test_the_next_wave_waits_until_nothing_is_in_flight() -> None:
    waves = waves_of("a", "b", "a")
    waves.next_wave()
    waves.acknowledge(1)

    assert waves.next_wave() == []
    waves.acknowledge(2)
    assert revisions(waves.next_wave()) == [3]


def test_a_checkpoint_is_safe_below_the_first_event_that_is_not_acknowledged() -> None:
    waves = waves_of("a", "b", "c", first=11)
    waves.next_wave()
    assert waves.acknowledged_upto == 10

    waves.acknowledge(11)
    waves.acknowledge(13)
    assert waves.acknowledged_upto == 11

    waves.acknowledge(12)
    assert waves.acknowledged_upto == 13
    assert waves.is_complete


def test_changes_that_send_no_event_count_as_sent() -> None:
    waves = waves_of("a", first=3, upto=9)
    waves.next_wave()
    waves.acknowledge(3)

    assert waves.acknowledged_upto == 9
    assert waves_of(upto=5).is_complete


def test_what_was_in_flight_is_sent_again_after_the_producer_was_replaced() -> None:
    waves = waves_of("a", "b")
    waves.next_wave()
    waves.acknowledge(2)
    waves.forget_flight()

    assert revisions(waves.next_wave()) == [1]


def test_a_rejected_event_blocks_its_key_and_lets_the_others_go_first() -> None:
    waves = waves_of("a", "b", "a")
    assert revisions(waves.next_wave(size=1)) == [1]
    waves.give_back(1)

    assert revisions(waves.next_wave(size=1)) == [2]
    waves.acknowledge(2)
    assert revisions(waves.next_wave(size=1)) == [1]


@given(versions=st.lists(st.sampled_from("abcd"), max_size=30), data=st.data())
def test_whatever_kafka_answers_the_order_of_each_key_is_kept(
    versions: list[str], data: st.DataObject
) -> None:
    """Answers come in any order; some events are refused, and some are stored although nobody hears of it."""
    waves = waves_of(*versions)
    records: list[tuple[bytes, int]] = []
    answers = st.sampled_from(["ack", "ack", "refuse", "lose", "store-and-lose"])
    while not waves.is_complete:
        for outgoing in data.draw(st.permutations(waves.next_wave(data.draw(st.integers(1, 4))))):
            answer = data.draw(answers)
            if answer in ("ack", "store-and-lose"):
                records.append((outgoing.event.key, outgoing.revision))
            if answer == "ack":
                waves.acknowledge(outgoing.revision)
            elif answer == "refuse":
                waves.give_back(outgoing.revision)
            stored = {revision for _, revision in records}
            assert set(range(1, waves.acknowledged_upto + 1)) <= stored
        waves.forget_flight()

    kept = newest_only(records)
    assert sorted(revision for key in kept.values() for revision in key) == list(range(1, len(versions) + 1))
