"""Facts from rows. A row that breaks the rules of its table is none: others' hands may have been at it, and it must
take no node down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from traffic_manager.db.session import Row
from traffic_manager.routing.model import Action, Change, Route, RouteKey

ROUTE_COLUMNS = """r.tenant, r.service, r.env, r.version, r.url, r.is_active, r.revision, r.created_at,
    r.updated_at"""
CHANGE_COLUMNS = """c.revision, c.batch_end, c.tenant, c.service, c.env, c.version, c.action, c.url,
    c.is_active, c.previous, c.actor, c.reason, c.correlation_id, c.occurred_at, c.address"""

# The year 10000 has no form in RFC 3339.
_TIMES_END = 253_402_300_800 * 1_000_000


def route_of(row: Row) -> Route | None:
    """Return the route of a row of ROUTE_COLUMNS, None if it can be none."""
    *names, url, is_active, revision, created_at, updated_at = row
    if not _are_names(names) or not _is_url(url) or not _is_revision(revision):
        return None
    if not _is_time(created_at) or not _is_time(updated_at):
        return None
    return Route(RouteKey.known(*names), url, bool(is_active), revision, created_at, updated_at)


def change_of(row: Row) -> Change | None:
    """Return the change of a row of CHANGE_COLUMNS, None if it can be none."""
    revision, batch_end, *names, action, url, is_active, previous, actor, reason, correlation_id, at = row[
        :-1
    ]
    if (
        not _are_names(names)
        or (does := _ACTIONS.get(action)) is None
        or not _is_time(at)
        or not _is_state(previous)
    ):
        return None
    if not (url is None if does is Action.DELETED else _is_url(url)):
        return None
    key = RouteKey.known(*names)
    return Change(
        revision,
        batch_end,
        key,
        does,
        url,
        bool(is_active),
        previous,
        actor,
        reason,
        correlation_id,
        at,
        row[-1],
    )


def good_entries(rows: Sequence[Row]) -> Sequence[Row]:
    """Return those of *rows*, each the text of a key, a URL and a revision, that can be a route of the mirror."""
    try:
        # The quick way, for a million of them: PostgreSQL's columns have their types.
        return [
            row
            for row in rows
            if row[0] and row[1] and row[2] > 0 and row[1].isascii() and row[1].isprintable()
        ]
    except (TypeError, AttributeError):
        return [row for row in rows if row[0] and _is_url(row[1]) and _is_revision(row[2])]


_ACTIONS = {action.value: action for action in Action}


def _are_names(names: list[Any]) -> bool:  # Any: whatever a row holds
    try:
        "/".join(names)
    except TypeError:
        return False
    return "" not in names


def _is_url(url: object) -> bool:
    return isinstance(url, str) and url != "" and url.isascii() and url.isprintable()


def _is_revision(revision: object) -> bool:
    return isinstance(revision, int) and revision > 0


def _is_time(microseconds: object) -> bool:
    return isinstance(microseconds, int) and 0 <= microseconds < _TIMES_END


def _is_state(previous: object) -> bool:
    """Return whether it is what a change keeps of the state before it."""
    if previous is None:
        return True
    try:
        return isinstance(orjson.loads(previous)["is_active"], bool)  # type: ignore[arg-type] # else it raises
    except (ValueError, TypeError, KeyError):
        return False
