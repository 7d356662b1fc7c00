"""What a consumer holds that has read the whole topic and kept the rule of docs/events.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import orjson

from traffic_manager.errors import InvalidInput
from traffic_manager.routing.model import Action, RouteKey


class Reader(Protocol):
    """Reads the topic: a `TopicReader`."""

    is_forbidden: bool

    def read(self, timeout_s: float) -> Sequence[tuple[bytes | None, bytes | None]] | None:
        """Return keys and values of the next records, None at the end. Raises KafkaUnavailable."""

    def close(self) -> None:
        """Disconnect."""


class Held(NamedTuple):
    """What is held of a route; *url* is None if it was deleted. A greater one takes its place."""

    epoch_number: int
    revision: int
    url: str | None
    is_active: bool


class ConsumersView:
    """Takes records in their order; `routes` is what is held after them, by the text of the key."""

    def __init__(self) -> None:
        self.routes: dict[str, Held] = {}

    def take(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Do what a consumer does. Records that are no events of ours are passed over."""
        for key, value in records:
            held = _held(value)
            if key is None or held is None:
                continue
            name = key.decode(errors="replace")
            known = self.routes.get(name)
            if known is None or held[:2] > known[:2]:
                self.routes[name] = held

    def lost(self, epoch_number: int) -> list[RouteKey]:
        """Return the routes that are held as something that is there, and were last told of in an epoch before
        *epoch_number*."""
        names = [
            name
            for name, held in self.routes.items()
            if held.url is not None and held.epoch_number < epoch_number
        ]
        return [key for name in names if (key := _key(name)) is not None]


def _held(value: bytes | None) -> Held | None:
    try:
        event = orjson.loads(value or b"")
        url = None if event["action"] == Action.DELETED else str(event["url"])
        return Held(int(event["epoch_number"]), int(event["revision"]), url, bool(event["is_active"]))
    except (ValueError, TypeError, KeyError):
        return None


def _key(name: str) -> RouteKey | None:
    names = name.split("/")
    try:
        return RouteKey.of(*names) if len(names) == 4 else None
    except InvalidInput:
        return None
