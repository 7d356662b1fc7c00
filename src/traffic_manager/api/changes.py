"""The log of changes over HTTP, with long poll. A waiting call holds no thread and no connection."""

from __future__ import annotations

import asyncio
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Response

from traffic_manager.api import schemas
from traffic_manager.api.context import GivenNames, GivenParts, MinRevision, Parts, invalid, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.api.problems import JsonObject
from traffic_manager.api.requests import NUMBER, WHOLE_NUMBER, StrictRoute
from traffic_manager.errors import Busy, HistoryGone
from traffic_manager.routing.model import Change, Position, rfc3339
from traffic_manager.routing.ports import ChangePage, Head, NameFilter

# 200 woken at once have their turn within 0.5 s.
_TURN_TIMEOUT_S = 5.0

router = APIRouter(prefix="/api/v1", route_class=StrictRoute, tags=["changes"])


@router.get("/changes", **documented(200, schemas.ChangesAnswer, 400, 410, 412, 503))
async def changes(
    parts: GivenParts,
    at_least: MinRevision,
    wanted: GivenNames,
    after: Annotated[
        str, Query(description="Changes after this: a `next_after`, or a revision of this history.")
    ] = "0",
    limit: Annotated[int, WHOLE_NUMBER, Query(ge=1, le=1000, description="At most this many changes.")] = 100,
    wait: Annotated[float, NUMBER, Query(ge=0, le=60, description="Seconds to wait for the first one.")] = 0,
) -> Response:
    """Return changes in their order. With `wait` the answer comes when there is one, or when time is up."""
    given = _given(after)
    # The watcher is there before the first read: what comes between the read and the wait is noticed.
    with parts.watchers.watching(wanted) as watcher:
        page = await _read(parts, wanted, given, limit, at_least)
        if wait and not page.changes:
            await watcher.wait(page.head.revision, wait)
            page = await _read_in_turn(parts, wanted, page.head.position, limit, at_least)
    return json_answer(_page_json(page), page.head.position)


async def _read_in_turn(
    parts: Parts, wanted: NameFilter, after: Position, limit: int, at_least: Position | None
) -> ChangePage:
    """Read as `_read` does, a few at a time: one change can wake more callers than may wait for the database."""
    try:
        async with asyncio.timeout(_TURN_TIMEOUT_S):
            await parts.woken_turns.acquire()
    except TimeoutError as error:
        raise Busy("too many callers were woken at once") from error
    try:
        return await _read(parts, wanted, after, limit, at_least)
    finally:
        parts.woken_turns.release()


async def _read(
    parts: Parts, wanted: NameFilter, after: Position, limit: int, at_least: Position | None
) -> ChangePage:
    page = await parts.read(
        lambda: parts.store.changes(wanted, after.revision, limit), at_least, lambda page: page.head
    )
    _check_continues(after, page)
    return page


def _check_continues(after: Position, page: ChangePage) -> None:
    head = page.head
    reason = None
    if after.epoch8 not in ("", head.epoch8):
        reason = "it belongs to another history"
    elif after.revision > head.revision:
        reason = "it lies in the future"
    elif after.revision < page.compacted_revision:
        reason = "changes that follow it are no longer kept"
    if reason:
        gone = HistoryGone(
            str(after.revision) if not after.epoch8 else str(after), str(head.position), reason
        )
        gone.as_of = head.position
        raise gone


def _given(after: str) -> Position:
    """Return the position; its epoch is empty for a bare revision, which means this history's."""
    if after.isascii() and after.isdigit() and len(after) <= 18:
        return Position("", int(after))
    try:
        return Position.parse(after, "after")
    except Exception as error:
        raise invalid("after", "invalid-revision", "must be a revision or <epoch8>.<revision>") from error


def _page_json(page: ChangePage) -> JsonObject:
    head: Head = page.head
    last = page.changes[-1].revision if page.has_more else head.revision
    return {
        "changes": [change_json(change) for change in page.changes],
        "head": str(head.position),
        "next_after": str(Position(head.epoch8, last)),
        "epoch": head.epoch,
    }


def change_json(change: Change) -> JsonObject:
    """Return *change* as the API shows it."""
    return {
        "revision": change.revision,
        "action": change.action,
        **change.key._asdict(),
        "url": change.url,
        "is_active": change.is_active,
        "previous": orjson.loads(change.previous) if change.previous else None,
        "actor": change.actor,
        "correlation_id": change.correlation_id,
        "occurred_at": rfc3339(change.occurred_at),
    }
