"""A shift: what the relay does between getting the lease and giving it back.

It goes forward in steps. Each looks at the lease first and takes no longer than its database calls and 0.1 s,
so the relay can hold its lease, stop, and be patient with Kafka, all on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from traffic_manager import failpoints
from traffic_manager.events.audience import Audience
from traffic_manager.events.delivery import Delivery, EventProducer, Failure, KafkaUnavailable
from traffic_manager.events.reader import ChangeReader
from traffic_manager.events.retelling import EpochLeft, Retelling
from traffic_manager.events.sendings import Sendings
from traffic_manager.events.trouble import Trouble
from traffic_manager.events.waves import Outgoing, Waves
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.spans import Record

# Checkpoints are commits; a stream of single changes shares them.
CHECKPOINT_S = 0.2
CHECKPOINT_CHANGES = 500
IDLE_S = 0.1
# After SILENCE_S without an answer to what is in flight people are told, after PATIENCE_S the producer is
# replaced. A broker that was frozen for less gets no event twice, because the same producer sends it again.
SILENCE_S = 5.0
PATIENCE_S = 30.0
_WAIT_S = 0.1
_NOT_READY_S = 0.05
_REJECTED_S = 0.2
# So often alone is an event tried that Kafka refuses, before it is set aside and the others go on.
MOST_TRIES = 3

log = structlog.get_logger(__name__)


class Place(Protocol):
    """Where the checkpoint is, and the right to move it: a `Tenure`, but for a replay."""

    def published_revision(self) -> int:
        """Return where the checkpoint is. Raises SourceUnavailable."""

    def keep(self) -> None:
        """Keep the right. Raises LeaseLost, SourceUnavailable."""

    def publish(self, revision: int) -> None:
        """Move the checkpoint to *revision*. Raises as `keep` does."""

    def set_aside(self, revision: int, reason: str) -> None:
        """Record that the event of *revision* is not published. Raises as `keep` does."""

    def end(self) -> None:
        """Give the right up. Raises SourceUnavailable."""


class Shift:
    """Sends changes from the checkpoint on, as long as *tenure* lasts. *database* and *kafka* are told when
    their troubles are over. *audience* None: nothing is told again by itself. *record* is told how long each event of
    a traced change was on its way."""

    def __init__(
        self,
        tenure: Place,
        reader: ChangeReader,
        connect: Callable[[], EventProducer],
        metrics: Metrics,
        database: Trouble,
        kafka: Trouble,
        clock: Callable[[], float],
        audience: Audience | None = None,
        record: Record | None = None,
    ) -> None:
        self._sendings = Sendings(record)
        self._tenure = tenure
        self._audience = audience
        self._reader = reader
        self._connect = connect
        self._metrics = metrics
        self._database = database
        self._kafka = kafka
        self._clock = clock
        self._producer: EventProducer | None = None
        self._waves: Waves | None = None
        self._is_retelling = False  # the waves are of no part of the log, and move no checkpoint
        self._wave_size: int | None = None
        self._published = self._done = 0
        self._checkpoint_at = self._heard_at = clock()
        self._rejected: dict[int, int] = {}  # how often each was refused when it was sent alone
        self.began = clock()
        self.is_idle = False

    def step(self) -> float:
        """Do what comes next, and return how many seconds to wait then. Raises LeaseLost, HistoryForked,
        KafkaUnavailable, SourceUnavailable; after all but the first, step again."""
        self.is_idle = False
        self._tenure.keep()
        if not self._reader.has_begun:
            self._begin()
        self._checkpoint_if_due()
        producer = self._producer = self._producer or self._connect()
        if not producer.is_ready():
            return _NOT_READY_S
        self._waves = self._waves or self._read(producer)
        return self._send(self._waves, producer) if self._waves else self._idle(producer)

    def finish(self, deadline: float) -> None:
        """Wait until Kafka has answered to what is in flight, at most until *deadline*; begin nothing new;
        move the checkpoint. Raises as `step` does."""
        try:
            while self._waves and self._producer and self._waves.in_flight and self._clock() < deadline:
                self._tenure.keep()
                self._exchange(self._waves, self._producer)
        finally:
            self._checkpoint()

    def replace_producer(self) -> None:
        """Send what is in flight again, with another producer. It may arrive twice."""
        for outgoing in self._waves.in_flight if self._waves else ():
            self._count_failed(outgoing)
        self._drop_producer()

    def begin_again(self) -> None:
        """Drop all that was read, because the history has forked, and start from its own checkpoint."""
        self._waves = None
        self._sendings.forget()
        self._drop_producer()
        self._forget()

    def close(self) -> None:
        """Let go of everything; the next one may have the lease. Never raises."""
        # Whatever state the parts are in: what fails to be released is released by its own time-out.
        with suppress(Exception):
            self._drop_producer()
        with suppress(Exception):
            self._forget()
        with suppress(Exception):
            self._tenure.end()

    @property
    def _acknowledged(self) -> int:
        """The revision that a checkpoint may move to."""
        return self._waves.acknowledged_upto if self._waves and not self._is_retelling else self._done

    def _begin(self) -> None:
        """Find the place to go on from. A checkpoint beyond the head is of a history that is gone; it is moved
        back before anything else, because it would hide changes once the head has passed it."""
        published = self._tenure.published_revision()
        position = self._reader.begin(published)
        if position < published:
            log.error("checkpoint_beyond_head", published=published, head=position)
        self._published, self._done = published, position
        if position > published:
            log.error("changes_lost_to_compaction", published=published, compacted=position)
            self._make_up_for_compaction(published)
        self._database.over()

    def _make_up_for_compaction(self, published: int) -> None:
        """Have all routes told, and the checkpoint stay until they are: whoever takes over has to do the same."""
        if self._audience:
            self._audience.has_missed()
            self._done = published

    def _read(self, producer: EventProducer) -> Waves | None:
        retelling = self._audience and self._audience.retelling(self._reader.head, producer.topic)
        self._is_retelling = retelling is not None
        waves = self._read_again(retelling) if retelling else self._reader.read()
        self._database.over()
        return waves

    def _read_again(self, retelling: Retelling) -> Waves | None:
        assert self._audience is not None  # noqa: S101 it asks for this
        try:
            waves = retelling.read()
        except EpochLeft:
            self._forget()
            return None
        if waves is None:
            self._audience.told()
            self._done = max(self._done, self._reader.position)
        return waves

    def _forget(self) -> None:
        """Give up the place in the log, and what is being told again."""
        self._reader.forget()
        if self._audience:
            self._audience.forget()

    def _idle(self, producer: EventProducer) -> float:
        producer.wait(0)  # else librdkafka's log lines and errors pile up
        self._kafka.over()
        self.is_idle = True
        return IDLE_S

    def _send(self, waves: Waves, producer: EventProducer) -> float:
        """Send the next wave or wait for the one under way; return how long to pause then."""
        if wave := waves.next_wave(self._wave_size):
            failpoints.reach("relay.before_send")
            for outgoing in wave:
                self._sendings.begin(outgoing)
                producer.send(outgoing.revision, outgoing.event)
                self._heard_at = self._clock()
            failpoints.reach("relay.after_send")
        is_rejected = bool(waves.in_flight) and self._exchange(waves, producer)
        if waves.is_complete:
            self._done = self._acknowledged
            self._waves = self._wave_size = None
            self._sendings.forget()
            self._rejected.clear()
        return _REJECTED_S if is_rejected else 0.0

    def _exchange(self, waves: Waves, producer: EventProducer) -> bool:
        """Take note of Kafka's answers; return whether it rejected an event."""
        deliveries = producer.wait(_WAIT_S)
        failures = [failure for delivery in deliveries if (failure := self._note(waves, delivery))]
        for failure in failures:
            if not failure.is_rejection:
                raise KafkaUnavailable(failure.kind, failure.reason)
        self._mind_silence(waves, producer)
        return bool(failures)

    def _note(self, waves: Waves, delivery: Delivery) -> Failure | None:
        self._heard_at = self._clock()
        if delivery.failure:
            self._note_failure(waves, delivery.revision, delivery.failure)
            return delivery.failure
        outgoing = waves.acknowledge(delivery.revision)
        self._sendings.end(outgoing)
        self._metrics.kafka_events_published_total.labels(outgoing.action).inc()
        self._kafka.over()
        return None

    def _note_failure(self, waves: Waves, revision: int, failure: Failure) -> None:
        if failure.is_rejection and self._has_had_its_tries(revision):
            self._set_aside(waves, revision, failure)
            return
        self._count_failed(waves.give_back(revision))
        if failure.is_rejection:
            # One by one from here to the end of the slice: Kafka judges whole batches by their size.
            self._wave_size = 1

    def _has_had_its_tries(self, revision: int) -> bool:
        """Return whether a refused event was sent alone often enough to be sure that it is the reason."""
        if self._wave_size == 1:
            self._rejected[revision] = self._rejected.get(revision, 0) + 1
        return self._rejected.get(revision, 0) >= MOST_TRIES

    def _set_aside(self, waves: Waves, revision: int, failure: Failure) -> None:
        """Go on without an event: one that Kafka will never take must not keep all others from their readers.
        First in the database, so that it is known there before the checkpoint can pass it."""
        self._tenure.set_aside(revision, failure.reason)
        outgoing = waves.acknowledge(revision)
        self._count_failed(outgoing)
        route = outgoing.event.key.decode()
        log.error("event_set_aside", route=route, revision=revision, reason=failure.reason)

    def _mind_silence(self, waves: Waves, producer: EventProducer) -> None:
        silence_s = self._clock() - self._heard_at
        if not waves.in_flight or silence_s < SILENCE_S:
            return
        reason = str(producer.last_error or "no answer to what was sent")
        if silence_s >= PATIENCE_S:
            raise KafkaUnavailable("silent", reason)
        self._kafka.met("silent", reason)

    def _checkpoint_if_due(self) -> None:
        ahead = self._acknowledged - self._published
        is_late = self._clock() - self._checkpoint_at >= CHECKPOINT_S
        if is_late or not 0 <= ahead < CHECKPOINT_CHANGES:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self._acknowledged != self._published:
            failpoints.reach("relay.before_checkpoint")
            self._tenure.publish(self._acknowledged)
            failpoints.reach("relay.after_checkpoint")
            self._published = self._acknowledged
            self._checkpoint_at = self._clock()
            self._database.over()

    def _count_failed(self, outgoing: Outgoing) -> None:
        self._metrics.kafka_events_failed_total.labels(outgoing.action).inc()

    def _drop_producer(self) -> None:
        if self._waves:
            self._waves.forget_flight()
        producer, self._producer = self._producer, None
        if producer:
            producer.close()
