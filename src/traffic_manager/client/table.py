"""Reads the whole table, or a part of it, as it was at one revision, although it is listed page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from traffic_manager.client.errors import ClientError, HistoryGone, UnexpectedAnswer
from traffic_manager.client.http import Client
from traffic_manager.client.model import Change, Filter, Key, Position, Reply, Route, RoutePage

ATTEMPTS = 5


class TableMoved(ClientError):
    """No consistent table could be read: in every attempt the history was replaced or cut off."""

    def __init__(self) -> None:
        super().__init__(f"the table's history changed during each of {ATTEMPTS} attempts to read it")


@dataclass(frozen=True, slots=True)
class Table:
    """The *routes* in key order, exactly as they were at *position*."""

    position: Position
    routes: Sequence[Route]


class _StartOver(Exception):
    """What was read so far does not belong together."""


def read_table(client: Client, wanted: Filter, *, is_active: bool | None = None) -> Table:
    """Return the routes asked for, at one revision. Raises TableMoved if the history keeps changing."""
    for _ in range(ATTEMPTS):
        try:
            table = _read_once(client, wanted)
        except (_StartOver, HistoryGone):
            continue
        # Filtered only here: a change tells a route's state, but not when an unseen one was created.
        return replace(table, routes=[r for r in table.routes if is_active in (None, r.is_active)])
    raise TableMoved


def _read_once(client: Client, wanted: Filter) -> Table:
    routes: dict[Key, Route] = {}
    positions: list[Position] = []
    for page in _pages(client, wanted):
        routes.update((route.key, route) for route in page.value.routes)
        if page.position is None:
            raise UnexpectedAnswer(client.shown_url, "without the header TM-Revision")
        positions.append(page.position)
    # Pages may come from servers that are not equally far, so that the first is not always the oldest.
    oldest, newest = min(positions), max(positions)
    if oldest.epoch8 != newest.epoch8:
        raise _StartOver
    for change in _changes(client, wanted, oldest, newest):
        _apply(change, routes)
    return Table(newest, sorted(routes.values(), key=lambda route: route.key))


def _pages(client: Client, wanted: Filter) -> Iterator[Reply[RoutePage]]:
    token: str | None = None
    while True:
        page = client.routes(wanted, page_token=token)
        yield page
        token = page.value.next_page_token
        if token is None:
            return


def _changes(client: Client, wanted: Filter, after: Position, upto: Position) -> Iterator[Change]:
    """Yield the changes in (after, upto]."""
    while after.revision < upto.revision:
        page = client.changes(after, wanted).value
        if page.next_after.epoch8 != upto.epoch8 or page.next_after <= after:
            raise _StartOver
        yield from (change for change in page.changes if change.revision <= upto.revision)
        after = page.next_after


def _apply(change: Change, routes: dict[Key, Route]) -> None:
    """Bring the route to its state after *change*, whatever it was: a page may be newer already, and the
    later changes bring it there again."""
    if change.action == "deleted" or change.url is None:
        routes.pop(change.key, None)
        return
    held = routes.get(change.key)
    is_new = held is None or change.action == "created"
    routes[change.key] = Route(
        *change.key,
        url=change.url,
        is_active=change.is_active,
        revision=change.revision,
        created_at=change.occurred_at if is_new or held is None else held.created_at,
        updated_at=change.occurred_at,
    )
