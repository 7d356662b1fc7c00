"""A relay between a database in memory and a Kafka that really listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tests.events.fakes import FakeDatabase, expected_by_key, newest_only
from tests.events.topic import Record, read_topic
from tests.events.waiting import eventually
from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.kafka_producer import KafkaProducer
from traffic_manager.events.kafka_reader import TopicReader
from traffic_manager.events.relay import Relay
from traffic_manager.events.replay import Replayed, replay
from traffic_manager.events.retelling import Retelling
from traffic_manager.monitoring.metrics import Metrics


def kafka_settings(**fields: object) -> KafkaSettings:
    """Return the settings with these fields, the others by default."""
    return KafkaSettings.model_validate(fields)


class Line:
    """From the database to the topic of *settings*."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.database_clock_ahead_s = 0.0
        self.database = FakeDatabase(lambda: time.monotonic() + self.database_clock_ahead_s)
        self.metrics = Metrics()

    @contextmanager
    def relaying(self, holder: str = "one", clock: Callable[[], float] = time.monotonic) -> Iterator[Relay]:
        """Lend a relay that runs."""
        connect = partial(KafkaProducer, self.settings)
        retell = partial(Retelling, self.database, partial(TopicReader, self.settings))
        relay = Relay(self.database, self.database, connect, retell, self.metrics, holder, clock)
        relay.start()
        try:
            yield relay
        finally:
            relay.stop()

    def replay(self, first: int) -> Replayed:
        """Send the events from revision *first* on again."""
        return replay(
            self.database, self.database, partial(KafkaProducer, self.settings), self.metrics, first
        )

    def is_published_in(self, timeout_s: float) -> bool:
        """Wait until all changes are published, by the checkpoint."""
        return eventually(lambda: self.database.published == len(self.database.changes), timeout_s)

    def records(self, at_least: int = 0) -> list[Record]:
        """Return what the topic holds, when it holds every change and *at_least* so many records."""
        of_keys = expected_by_key(self.database.changes).values()
        wanted = {revision for of_key in of_keys for revision in of_key}

        def is_enough(records: list[Record]) -> bool:
            return len(records) >= at_least and wanted <= {record.revision for record in records}

        return read_topic(self.settings.bootstrap_servers or "", is_enough, self.settings.route_events_topic)

    def is_told_by(self, records: list[Record]) -> bool:
        """Return whether a consumer of *records* knows every change, in the order of its route."""
        kept = newest_only((record.key, record.revision) for record in records)
        return kept == expected_by_key(self.database.changes)
