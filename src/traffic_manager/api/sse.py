"""What a stream says, as server-sent events: `change`, `progress`, the events of a snapshot, and `end`.

An `id` is a position from which the stream can be gone on: everything that matches up to it was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from traffic_manager.api.changes import change_json
from traffic_manager.api.problems import JsonObject
from traffic_manager.routing.model import Change, Position, RouteKey
from traffic_manager.routing.ports import Entry
from traffic_manager.routing.recent_changes import Page, Told

# A reader that takes nothing costs at most this beside the 64 KiB that its connection buffers.
PIECE_BYTES = 16 * 1024
HEARTBEAT = b":\n\n"


def pieces(page: Page, epoch8: str) -> tuple[bytes, ...]:
    """Return the changes of *page* as it is said to all its readers, in pieces of bounded size; rendered once."""
    if page.pieces is None:
        page.pieces = tuple(joined(_events(page, epoch8)))
    return page.pieces


def last_id(page: Page) -> int:
    """Return the revision of the last id that `pieces` says; there is a change on *page*."""
    return page.upto if _is_cut(page) else page.told[-1].change.revision


def joined(events: Iterable[bytes]) -> Iterator[bytes]:
    """Yield *events* joined to pieces of about PIECE_BYTES; one event is never cut."""
    piece: list[bytes] = []
    size = 0
    for event in events:
        if piece and size + len(event) > PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(event)
        size += len(event)
    if piece:
        yield b"".join(piece)


def progress(position: Position) -> bytes:
    """Say that everything that matches up to *position* was said."""
    return event("progress", {"position": str(position)}, position)


def route(key: RouteKey, entry: Entry) -> bytes:
    """Say one route of a snapshot, as resolve would."""
    return event("route", {**key._asdict(), "url": entry.url, "revision": entry.revision})


def change(told: Change) -> bytes:
    """Say one change while a snapshot lasts: it has no id, for nobody can go on from there."""
    return event("change", change_json(told))


def event(kind: str, document: JsonObject, position: Position | None = None) -> bytes:
    """Return one event, with an id if there is a *position*."""
    id_line = f"id: {position}\n" if position else ""
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), id_line.encode(), orjson.dumps(document))


def _events(page: Page, epoch8: str) -> Iterator[bytes]:
    for told in page.told:
        yield _text(told, epoch8)
    if _is_cut(page):
        yield progress(Position(epoch8, page.upto))


def _is_cut(page: Page) -> bool:
    """Return whether the last matching change is not the last of its batch, although the page reaches its end:
    then the reader is told that no more of the batch comes."""
    last = page.told[-1].change
    return last.revision < last.batch_end <= page.upto


def _text(told: Told, epoch8: str) -> bytes:
    if told.text is None:
        told.text = event("change", change_json(told.change), Position(epoch8, told.change.revision))
    return told.text
