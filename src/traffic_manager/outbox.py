"""The way from the log of changes to Kafka, joined: relay, probe and backlog over one database."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.leases import SqlLeases
from traffic_manager.db.pool import Database
from traffic_manager.db.telling import SqlTelling
from traffic_manager.errors import StartRefused
from traffic_manager.monitoring.health import CheckResult, CheckStatus
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.spans import Kind
from traffic_manager.traces import recorder_of

if TYPE_CHECKING:
    from traffic_manager.events.replay import Replayed
    from traffic_manager.monitoring.tracing import Tracing

_PROBE_TIMEOUT_S = 1.0


class Outbox:
    """Tells Kafka of the changes in *database*, if `start_relay` is called; shows what waits in any case."""

    def __init__(
        self,
        settings: KafkaSettings,
        database: Database,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        # Here, because the client library is an extra that only users of Kafka install.
        from traffic_manager.events.kafka_probe import KafkaProbe
        from traffic_manager.events.kafka_producer import KafkaProducer
        from traffic_manager.events.kafka_reader import TopicReader
        from traffic_manager.events.relay import Relay
        from traffic_manager.events.retelling import Retelling

        self._leases = SqlLeases(database)
        self._metrics = metrics
        self._probe = KafkaProbe(settings)
        self._feed = SqlFeed(database, metrics.tm_bad_row_total.inc)
        self._connect = partial(KafkaProducer, settings)
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self._retell = partial(Retelling, SqlTelling(database), partial(TopicReader, settings))
        topic = settings.route_events_topic
        facts = {"messaging.system": "kafka", "messaging.destination.name": topic}
        record = recorder_of(tracing, f"send {topic}", Kind.PRODUCER, facts)
        self._relay = Relay(
            self._leases, self._feed, self._connect, self._retell, metrics, holder, record=record
        )
        self.wake = self._relay.wake

    def start_relay(self) -> None:
        """Begin to send, or to wait for whoever sends now."""
        self._relay.start()

    def replay(self, first: int) -> Replayed:
        """Send the events from revision *first* on again, beside whoever relays. Not after `start_relay`. Raises
        StartRefused, SourceUnavailable."""
        from traffic_manager.events.replay import replay

        with _kafka_needed():
            return replay(self._feed, self._leases, self._connect, self._metrics, first)

    def retell(self) -> Sequence[int]:
        """Tell all routes again as they are now, as after a fork; return the revisions of events that were refused.
        Not after `start_relay`. Raises as `replay` does."""
        from traffic_manager.events.replay import retell

        with _kafka_needed():
            return retell(self._feed, self._retell, self._connect, self._metrics)

    def close(self) -> None:
        """Finish what is in flight, let the next one have the lease, and disconnect."""
        self._relay.stop()
        self._probe.close()

    def measure_backlog(self, head_revision: int) -> None:
        """Set the gauges of what waits to be sent."""
        from traffic_manager.events.backlog import backlog

        found = backlog(self._leases, head_revision, time.time)
        self._metrics.tm_outbox_lag_events.set(found.events)
        self._metrics.tm_outbox_lag_seconds.set(found.age_s)
        self._metrics.tm_events_set_aside.set(self._leases.events_set_aside())

    def check(self) -> CheckResult:
        """Return how Kafka is, for health; sets the gauge of it too."""
        from traffic_manager.events.delivery import KafkaUnavailable

        try:
            self._probe.check(_PROBE_TIMEOUT_S)
        except KafkaUnavailable as away:
            self._metrics.kafka_producer_ready.set(0)
            return CheckResult(CheckStatus.DEGRADED, f"changes wait in the outbox: {away}")
        self._metrics.kafka_producer_ready.set(1)
        return CheckResult(CheckStatus.HEALTHY, "Kafka is accessible")


@contextmanager
def _kafka_needed() -> Iterator[None]:
    from traffic_manager.events.delivery import KafkaUnavailable

    try:
        yield
    except KafkaUnavailable as away:
        raise StartRefused(f"KAFKA_BOOTSTRAP_SERVERS: Kafka does not take events: {away}") from away
