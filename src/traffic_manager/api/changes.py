"""The log of changes over HTTP, with long poll. A waiting call holds no thread and no connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query, Response

from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Operation, Principal
from traffic_manager.api import schemas
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.context import GivenNames, GivenParts, MinRevision, Parts, invalid, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.api.problems import JsonObject
from traffic_manager.api.requests import NUMBER, WHOLE_NUMBER, StrictRoute
from traffic_manager.errors import Busy, HistoryGone, InvalidInput
from traffic_manager.routing.model import Action, Change, Position, microseconds_of, rfc3339
from traffic_manager.routing.ports import ANY_TRAITS, ChangePage, ChangeTraits, Head, NameFilter

# 200 who have to read the database at once have their turn within 0.5 s.
_TURN_TIMEOUT_S = 5.0
_is_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII).fullmatch

router = APIRouter(prefix="/api/v1", route_class=StrictRoute, tags=["changes"])


_Time = Annotated[str | None, Query(description="RFC 3339, such as `2026-11-27T12:00:00Z`.")]


async def _traits(
    actor: Annotated[
        str | None,
        Query(max_length=512, description="Made by this one, or with an API key of this owner."),
    ] = None,
    action: Annotated[Action | None, Query(description="Only changes that did this.")] = None,
    since: _Time = None,
    until: _Time = None,
) -> ChangeTraits:
    if actor is not None and not actor.isprintable():
        raise invalid("actor", "invalid-parameter", "must be printable")
    return ChangeTraits(actor, action, _microseconds(since, "since"), _microseconds(until, "until"))


def _microseconds(text: str | None, field: str) -> int | None:
    """Return the time that *text* says, in microseconds since 1970. Raises InvalidInput for *field*."""
    if text is None:
        return None
    try:
        if _is_time(text):
            return microseconds_of(datetime.fromisoformat(text))
    except (ValueError, OverflowError):  # the 31st of June
        pass
    raise invalid(field, "invalid-parameter", "must be a time such as 2026-11-27T12:00:00Z (RFC 3339)")


GivenTraits = Annotated[ChangeTraits, Depends(_traits)]


@router.get("/changes", **documented(200, schemas.ChangesAnswer, 400, 410, 412, 503))
async def changes(
    parts: GivenParts,
    caller: GivenCaller,
    at_least: MinRevision,
    wanted: GivenNames,
    traits: GivenTraits,
    after: Annotated[
        str, Query(description="Changes after this: a `next_after`, or a revision of this history.")
    ] = "0",
    limit: Annotated[int, WHOLE_NUMBER, Query(ge=1, le=1000, description="At most this many changes.")] = 100,
    wait: Annotated[float, NUMBER, Query(ge=0, le=60, description="Seconds to wait for the first one.")] = 0,
) -> Response:
    """Return changes in their order. With `wait` the answer comes when there is one, or when time is up."""
    given = position_of(after, "after")
    if wait and traits != ANY_TRAITS:
        raise invalid(
            "wait", "invalid-parameter", "goes with names only, not with actor, action, since or until"
        )
    wanted = caller.narrowed(Operation.CHANGES, wanted)
    parts.limiter.charge(Kind.LISTS, caller.counted_as, wanted.only_tenant)
    page = None
    if wait and at_least is None:
        page = _remembered(parts, wanted, given, limit)
    if page is None:
        page = await read_changes(parts, wanted, given, limit, at_least, traits)
    if wait and not page.changes:
        page = await _awaited(parts, caller, wanted, page.head, limit, wait)
    return json_answer(_page_json(page), page.head.position)


async def _awaited(
    parts: Parts, caller: Principal, wanted: NameFilter, head: Head, limit: int, wait_s: float
) -> ChangePage:
    """Return what matches after *head* as soon as there is something, or nothing when time is up."""
    with parts.watching(caller, wanted, head.revision) as watcher:
        page = await watcher.next(wait_s)
    parts.gate.recheck(caller)
    if page is not None and not page.told:
        return ChangePage(_moved(head, page.upto), (), last=None, compacted_revision=0)
    found = _remembered(parts, wanted, head.position, limit)
    return found or await read_in_turn(parts, wanted, head.position, limit)


def _remembered(parts: Parts, wanted: NameFilter, after: Position, limit: int) -> ChangePage | None:
    """Return what matches after *after* from memory, None if that does not reach so far."""
    recent = parts.watchers.recent
    page = recent.page(wanted, after.revision, limit) if recent.covers(after) else None
    if page is None or recent.head is None:
        return None
    found = [told.change for told in page.told]
    last = page.upto if page.upto < recent.head.revision else None
    return ChangePage(recent.head, found, last, recent.floor)


def _moved(head: Head, revision: int) -> Head:
    return Head(head.epoch, head.epoch_number, revision)


async def read_in_turn(parts: Parts, wanted: NameFilter, after: Position, limit: int) -> ChangePage:
    """Read as `read_changes` does, in turn."""
    async with turn(parts):
        return await read_changes(parts, wanted, after, limit, None)


@asynccontextmanager
async def turn(parts: Parts) -> AsyncIterator[None]:
    """Let a few watchers at a time read the database: many can have to at once, as after a restart."""
    try:
        async with asyncio.timeout(_TURN_TIMEOUT_S):
            await parts.watchers_turns.acquire()
    except TimeoutError as error:
        raise Busy("too many watchers wait for the database") from error
    try:
        yield
    finally:
        parts.watchers_turns.release()


async def read_changes(
    parts: Parts,
    wanted: NameFilter,
    after: Position,
    limit: int,
    at_least: Position | None,
    traits: ChangeTraits = ANY_TRAITS,
) -> ChangePage:
    """Return changes after *after* from the database. Raises HistoryGone if it cannot be gone on from."""
    page = await parts.read(
        lambda: parts.store.changes(wanted, after.revision, limit, traits), at_least, lambda page: page.head
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


def position_of(after: str, field: str) -> Position:
    """Return the position; its epoch is empty for a bare revision, which means this history's. Raises
    InvalidInput for *field*."""
    if after.isascii() and after.isdigit() and len(after) <= 18:
        return Position("", int(after))
    try:
        return Position.parse(after, field)
    except InvalidInput as error:
        raise invalid(field, "invalid-revision", "must be a revision or <epoch8>.<revision>") from error


def _page_json(page: ChangePage) -> JsonObject:
    head: Head = page.head
    last = head.revision if page.last is None else page.last
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
        "batch_end": change.batch_end,
        "action": change.action,
        **change.key._asdict(),
        "url": change.url,
        "is_active": change.is_active,
        "previous": orjson.loads(change.previous) if change.previous else None,
        "actor": change.actor,
        "address": change.address,
        "reason": change.reason,
        "correlation_id": change.correlation_id,
        "occurred_at": rfc3339(change.occurred_at),
    }
