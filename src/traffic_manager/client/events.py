"""Server-sent events, as the stream of changes sends them: bytes in, events out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from traffic_manager.client.model import Position, StreamEvent

_RETRY_MS = 1000


def events_of(chunks: Iterable[bytes]) -> Iterator[StreamEvent]:
    """Yield the whole events in *chunks*, wherever those are cut. Raises ValueError for anything else."""
    fields: dict[str, str] = {}
    for line in _lines(chunks):
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield _event(fields)
        fields = {}


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # Not splitlines: it would cut at characters that JSON may hold as they are.
    rest: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for other in others:
            yield b"".join(rest).decode()
            rest = [other]


def _event(fields: dict[str, str]) -> StreamEvent:
    document = json.loads(fields["data"])
    if not isinstance(document, dict):
        raise ValueError("an event without a JSON object")
    position = Position.parse(fields["id"]) if "id" in fields else None
    retry_ms = int(fields.get("retry", _RETRY_MS))
    return StreamEvent(fields.get("event", "message"), position, document, retry_ms)
