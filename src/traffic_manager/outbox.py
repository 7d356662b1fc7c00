"""The way from the log of changes to Kafka, joined: relay, probe and backlog over one database."""

from __future__ import annotations

import os
import socket
import time
from functools import partial

from traffic_manager.config.settings import KafkaSettings
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.leases import SqlLeases
from traffic_manager.db.pool import Database
from traffic_manager.monitoring.health import CheckResult, CheckStatus
from traffic_manager.monitoring.metrics import Metrics

_PROBE_TIMEOUT_S = 1.0


class Outbox:
    """Tells Kafka of the changes in *database*, if `start_relay` is called; shows what waits in any case."""

    def __init__(self, settings: KafkaSettings, database: Database, metrics: Metrics) -> None:
        # Here, because the client library is an extra that only users of Kafka install.
        from traffic_manager.events.kafka_probe import KafkaProbe
        from traffic_manager.events.kafka_producer import KafkaProducer
        from traffic_manager.events.relay import Relay

        self._leases = SqlLeases(database)
        self._metrics = metrics
        self._probe = KafkaProbe(settings)
        feed = SqlFeed(database, metrics.tm_bad_row_total.inc)
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self._relay = Relay(self._leases, feed, partial(KafkaProducer, settings), metrics, holder)
        self.wake = self._relay.wake

    def start_relay(self) -> None:
        """Begin to send, or to wait for whoever sends now."""
        self._relay.start()

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
