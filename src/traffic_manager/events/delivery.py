"""What the relay asks of a producer, in the relay's words: it runs and is tested without Kafka's client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from traffic_manager.errors import TrafficManagerError
from traffic_manager.events.envelope import Event


class KafkaUnavailable(TrafficManagerError):
    """Kafka does not take events now. *kind* is librdkafka's name for the cause or ours, *reason* tells the
    person who must act. Stays inside this room, but for the health check's `KafkaProbe`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event was not delivered. *is_rejection* if Kafka refuses this very event."""

    kind: str
    reason: str
    is_rejection: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """The last word on the event of *revision*: Kafka has it on all replicas, or there is a *failure*."""

    revision: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic that events go to: Kafka's *id* of it, which another one of the same name has not, and how many
    *partitions* it has."""

    id: str
    partitions: int


class EventProducer(Protocol):
    """Sends events, by one thread. After KafkaUnavailable it is closed and replaced."""

    last_error: KafkaUnavailable | None

    @property
    def topic(self) -> Topic | None:
        """The topic as it was lately, None as long as that is not known."""

    def is_ready(self) -> bool:
        """Return whether events may be sent. Raises KafkaUnavailable."""

    def send(self, revision: int, event: Event) -> None:
        """Take *event* over; `wait` will tell what became of it. Raises KafkaUnavailable."""

    def wait(self, timeout_s: float) -> list[Delivery]:
        """Return the deliveries since the last call, after *timeout_s* if there are none. Raises
        KafkaUnavailable after an error that this producer cannot recover from."""

    def close(self) -> None:
        """Forget what is not delivered (Kafka may still take it), and disconnect. Never raises."""
