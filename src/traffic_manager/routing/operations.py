"""What may be done to a route, and what it comes to: pure decisions on the state before.

`registry` decides twice with these: on what it read without a lock, and again under the revision lock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from traffic_manager.errors import BatchFailed, PreconditionFailed, RouteConflict, RouteNotFound
from traffic_manager.errors import TrafficManagerError as Failure
from traffic_manager.routing.model import Action, Change, Route, RouteKey
from traffic_manager.routing.ports import Head

ANY_TAG = "*"


class Verb(StrEnum):
    """What a caller can ask for."""

    CREATE = "create"
    PUT = "put"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Operation:
    """One wish for one route.

    *url* goes with create and put; *is_active* with put (None: as it is, or true for a new route). *if_match*:
    the route must exist with one of these tags (`<epoch8>.<revision>`, or `*` for any); *if_none_match*: it
    must have none of them. None: no such precondition.
    """

    verb: Verb
    key: RouteKey
    url: str | None = None
    is_active: bool | None = None
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation came to. *route* is the route after it (None: deleted); *action* is None where
    nothing had to change; *revision* is that of the change, or the route's own where nothing changed."""

    operation: Operation
    route: Route | None
    action: Action | None
    revision: int


@dataclass(frozen=True, slots=True)
class Author:
    """Who asks, and in which request."""

    actor: str
    correlation_id: str


class Overlay:
    """The state of some routes, with the effects of operations on it that are not written yet.

    Numbers changes from the head on. Operations see the effects of those before them; those of a request that
    fails leave none.
    """

    def __init__(self, head: Head, now: int, routes: Mapping[RouteKey, Route]) -> None:
        self._head = head
        self._now = now
        self._before = routes
        self.after: dict[RouteKey, Route | None] = {}
        self.changes: list[Change] = []

    @property
    def head(self) -> Head:
        """Where history will stand after all that was done here so far."""
        return replace(self._head, revision=self._head.revision + len(self.changes))

    def apply(self, operations: Sequence[Operation], author: Author, *, is_batch: bool) -> list[Outcome]:
        """Do all of *operations*, or none. Raises what the failing one raises; BatchFailed for a batch."""
        after, count = dict(self.after), len(self.changes)
        outcomes = []
        try:
            for index, operation in enumerate(operations):
                outcomes.append(self._apply_one(operation, author, index if is_batch else None))
        except BaseException:
            self.after = after
            del self.changes[count:]
            raise
        self._end_batch(count)
        return outcomes

    def _apply_one(self, operation: Operation, author: Author, index: int | None) -> Outcome:
        try:
            return self._do(operation, author)
        except Failure as failure:
            if index is None:
                raise
            raise BatchFailed(index, failure) from failure

    def _do(self, operation: Operation, author: Author) -> Outcome:
        current = self._current(operation.key)
        _check_preconditions(operation, current, self._head.epoch8)
        decision = _decide(operation, current)
        if decision is None:
            return Outcome(operation, current, None, current.revision if current else self._head.revision)
        action, url, is_active = decision
        return self._record(operation, current, action, url, is_active, author)

    def _current(self, key: RouteKey) -> Route | None:
        return self.after[key] if key in self.after else self._before.get(key)

    def _record(
        self,
        operation: Operation,
        current: Route | None,
        action: Action,
        url: str | None,
        is_active: bool,
        author: Author,
    ) -> Outcome:
        revision = self._head.revision + len(self.changes) + 1
        created_at = current.created_at if current else self._now
        route = Route(operation.key, url, is_active, revision, created_at, self._now) if url else None
        change = Change(
            revision=revision,
            batch_end=revision,
            key=operation.key,
            action=action,
            url=url,
            is_active=is_active,
            previous=_as_json(current),
            actor=author.actor,
            reason=None,
            correlation_id=author.correlation_id,
            occurred_at=self._now,
        )
        self.after[operation.key] = route
        self.changes.append(change)
        return Outcome(operation, route, action, revision)

    def _end_batch(self, first: int) -> None:
        """Mark the changes from index *first* on as visible together."""
        if len(self.changes) - first > 1:
            end = self.changes[-1].revision
            self.changes[first:] = [replace(change, batch_end=end) for change in self.changes[first:]]


def _check_preconditions(operation: Operation, current: Route | None, epoch8: str) -> None:
    tags = {ANY_TAG, f"{epoch8}.{current.revision}"} if current else set()
    if operation.if_match is not None and not tags & operation.if_match:
        raise PreconditionFailed(operation.key, current)
    if operation.if_none_match is not None and tags & operation.if_none_match:
        raise PreconditionFailed(operation.key, current)


def _decide(operation: Operation, current: Route | None) -> tuple[Action, str | None, bool] | None:
    """Return (action, url after, is_active after), None if all is as wanted already."""
    match operation.verb:
        case Verb.CREATE:
            return _decide_create(operation, current)
        case Verb.PUT:
            return _decide_put(operation, current)
        case Verb.DELETE:
            _existing(operation, current)
            return Action.DELETED, None, False
        case Verb.ACTIVATE:
            return _decide_switch(_existing(operation, current), is_active=True)
        case Verb.DEACTIVATE:
            return _decide_switch(_existing(operation, current), is_active=False)


def _decide_create(operation: Operation, current: Route | None) -> tuple[Action, str | None, bool] | None:
    if current is None:
        return Action.CREATED, operation.url, True
    if current.is_active and current.url == operation.url:
        return None
    raise RouteConflict(current)


def _decide_put(operation: Operation, current: Route | None) -> tuple[Action, str | None, bool] | None:
    if current is None:
        return Action.CREATED, operation.url, operation.is_active is not False
    is_active = current.is_active if operation.is_active is None else operation.is_active
    if current.url != operation.url:
        return Action.UPDATED, operation.url, is_active
    return _decide_switch(current, is_active=is_active)


def _decide_switch(current: Route, *, is_active: bool) -> tuple[Action, str | None, bool] | None:
    if current.is_active == is_active:
        return None
    return (Action.ACTIVATED if is_active else Action.DEACTIVATED), current.url, is_active


def _existing(operation: Operation, current: Route | None) -> Route:
    if current is None:
        raise RouteNotFound(operation.key)
    return current


def _as_json(route: Route | None) -> str | None:
    if route is None:
        return None
    state = {"url": route.url, "is_active": route.is_active, "revision": route.revision}
    return json.dumps(state, separators=(",", ":"))


def keys_of(operations: Collection[Operation]) -> set[RouteKey]:
    """Return the keys that *operations* touch."""
    return {operation.key for operation in operations}
