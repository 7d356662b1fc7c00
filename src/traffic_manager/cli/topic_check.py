"""Compares Kafka's topic with the database: `traffic-manager verify --kafka`.

Every change up to the checkpoint has to be in the topic as the log has it, and a consumer that has read the topic and
kept the rule has to hold the routes that there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from traffic_manager.db.verification import Name, State, Verification, shown
from traffic_manager.events.consumers_view import ConsumersView, Held
from traffic_manager.events.kafka_reader import Record, TopicReader
from traffic_manager.routing.model import Action
from traffic_manager.routing.ports import Head

_READ_S = 0.5


class _Said(NamedTuple):
    """An event in short."""

    epoch_number: int
    revision: int
    said: int


class TopicCheck:
    """A `Check` of the log up to revision *published*, when *head* was the head; events of the revisions *aside* were
    refused. Eight bytes a revision, and what consumers hold."""

    def __init__(self, head: Head, published: int, aside: Sequence[int]) -> None:
        self._published = published
        self._aside = frozenset(aside)
        self._view = ConsumersView()
        # What the event of each revision says, as a number; 0: there is none. Of the newest epoch that has one.
        self._said = array("Q", bytes(8 * (head.revision + 1)))
        self._epochs = array("H", bytes(2 * (head.revision + 1)))
        self._missing: list[int] = []
        self._wrong: list[int] = []
        self._untold: set[str] = set()
        self._floor = 0
        self.events = 0

    def read(self, reader: TopicReader) -> None:
        """Read the whole topic. Raises KafkaUnavailable."""
        started: set[int] = set()
        while (records := reader.read(_READ_S)) is not None:
            self._view.take(records)
            events = [event for record in records if (event := _event(record)) is not None]
            if events and reader.partition not in started:
                started.add(reader.partition)
                self._begin(reader, events[0])
            for event in events:
                self._note(event)
            self.events += len(records)

    def take(self, revision: int, name: Name, state: State | None) -> None:
        """Take the next change of the log."""
        if revision > self._published:
            self._untold.add("/".join(name))
        elif revision > self._floor and revision not in self._aside:
            said = self._said[revision]
            if not said:
                self._missing.append(revision)
            elif said != _print(
                "/".join(name), state.url if state else None, bool(state and state.is_active)
            ):
                self._wrong.append(revision)

    def end(self, told: Verification) -> None:
        """Add what differs to *told*, now that the log has been read."""
        for first, last in _ranges(self._missing):
            told.found(f"revisions {first} to {last}: not all of their events are in the topic")
        for revision in self._wrong:
            told.found(f"revision {revision}: its event in the topic says something else than the log")
        for revision in sorted(self._aside):
            told.found(f"revision {revision}: Kafka refused its event, which is set aside")
        self._compare_routes(told)

    def _compare_routes(self, told: Verification) -> None:
        table = {"/".join(name): state for name, state in told.table.items()}
        for key, held in self._view.routes.items():
            # The topic was read before the log: what is beyond the head now is of a history that is lost.
            is_possible = held[:2] <= (told.head.epoch_number, told.head.revision)
            if key in self._untold and is_possible:
                continue
            row = table.get(key)
            if _as_state(held) != row:
                told.found(f"route {key}: consumers hold {shown(_as_state(held))}; it is {shown(row)}")
        for key, row in table.items():
            if key not in self._view.routes and key not in self._untold and row.revision > self._floor:
                told.found(f"route {key}: consumers hold nothing; it is {shown(row)}")

    def _begin(self, reader: TopicReader, first: _Said) -> None:
        """Judge nothing that Kafka may have dropped from the beginning of a partition."""
        if reader.partition in reader.shortened:
            self._floor = max(self._floor, first.revision)

    def _note(self, event: _Said) -> None:
        if event.revision < len(self._said) and event.epoch_number >= self._epochs[event.revision]:
            self._epochs[event.revision] = event.epoch_number
            self._said[event.revision] = event.said


def _ranges(revisions: Iterable[int]) -> list[tuple[int, int]]:
    """Return rising *revisions* as ranges. Between two of them changes of other kinds may lie."""
    found: list[tuple[int, int]] = []
    for revision in revisions:
        if found and revision == found[-1][1] + 1:
            found[-1] = (found[-1][0], revision)
        else:
            found.append((revision, revision))
    return found


def _event(record: Record) -> _Said | None:
    """Return what a record says of a revision, None if it is of none: that a route of a lost branch is gone."""
    key, value = record
    try:
        event = orjson.loads(value or b"")
        if key is None or event["event_id"].count(":") != 1:
            return None
        url = None if event["action"] == Action.DELETED else event["url"]
        said = _print(key.decode(), url, bool(event["is_active"]))
        return _Said(int(event["epoch_number"]), int(event["revision"]), said)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _print(key: str, url: str | None, is_active: bool) -> int:
    return hash((key, url, is_active)) & 0xFFFF_FFFF_FFFF_FFFF | 1


def _as_state(held: Held) -> State | None:
    return None if held.url is None else State(held.url, held.is_active, held.revision)
