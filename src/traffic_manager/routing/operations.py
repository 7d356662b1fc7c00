"""What may be done to a route, and what it comes to: pure decisions on the state before.

`registry` decides twice with these: on what it read without a lock, and again under the revision lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import orjson

from traffic_manager.errors import (
    BatchFailed,
    PreconditionFailed,
    QuotaExceeded,
    RouteConflict,
    RouteNotFound,
)
from traffic_manager.errors import TrafficManagerError as Failure
from traffic_manager.routing.model import Action, Change, Route, RouteKey, Trace
from traffic_manager.routing.ports import Head

ANY_TAG = "*"


class Verb(StrEnum):
    """What a caller can ask for."""

    CREATE = "create"
    PUT = "put"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    DELETE = "delete"


class Operation(NamedTuple):
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

    @property
    def creates(self) -> bool:
        """True if there may be a route more after it."""
        return self.verb in (Verb.CREATE, Verb.PUT)


class Outcome(NamedTuple):
    """What an operation came to. *route* is the route after it (None: deleted); *action* is None where
    nothing had to change; *revision* is that of the change, or the route's own where nothing changed."""

    operation: Operation
    route: Route | None
    action: Action | None
    revision: int


@dataclass(frozen=True, slots=True)
class Author:
    """Who asks, from which *address* and for which *reason*, and in which request. *idempotency_key*: what names the
    request if it is to be done once. *trace*: what it is a part of, if it is traced."""

    actor: str
    correlation_id: str
    idempotency_key: str | None = None
    address: str | None = None
    reason: str | None = None
    trace: Trace | None = None


class _Draft(NamedTuple):
    """A change that is decided but not numbered yet."""

    operation: Operation
    before: Route | None
    action: Action
    url: str | None
    is_active: bool


class Quota(NamedTuple):
    """How many routes a tenant may have, and has."""

    most: int
    used: int


_GROWTH = {Action.CREATED: 1, Action.DELETED: -1}


class Overlay:
    """The state of some routes, with the effects of operations on it that are not written yet.

    Numbers changes from the head on. Operations see the effects of those before them; those of a request that
    fails leave none. *quotas*: of tenants that may not have any number of routes.
    """

    def __init__(
        self,
        head: Head,
        now: int,
        routes: Mapping[RouteKey, Route],
        quotas: Mapping[str, Quota] | None = None,
    ) -> None:
        self._head = head
        self._quotas = quotas or {}
        self._grown: Counter[str] = Counter()  # by how many routes, by tenant
        self._epoch8 = head.epoch8
        self._now = now
        self._before = routes
        self.after: dict[RouteKey, Route | None] = {}
        self.changes: list[Change] = []
        self.traces: dict[int, Trace] = {}  # of changes that traced requests make, by revision

    @property
    def head(self) -> Head:
        """Where history will stand after all that was done here so far."""
        return Head(self._head.epoch, self._head.epoch_number, self._head.revision + len(self.changes))

    def apply(self, operations: Sequence[Operation], author: Author, *, is_batch: bool) -> list[Outcome]:
        """Do all of *operations*, or none. Raises what the failing one raises; BatchFailed for a batch."""
        drafts: list[_Draft] = []
        after: dict[RouteKey, Route | None] = {}  # of this request alone
        outcomes = []
        for index, operation in enumerate(operations):
            try:
                outcomes.append(self._do(operation, drafts, after))
            except Failure as failure:
                if not is_batch:
                    raise
                raise BatchFailed(index, failure) from failure
        if self._quotas:
            self._check_quotas(operations, drafts, is_batch=is_batch)
        self.after |= after
        self._record(drafts, author)
        return outcomes

    def _do(self, operation: Operation, drafts: list[_Draft], after: dict[RouteKey, Route | None]) -> Outcome:
        key = operation.key
        current = after[key] if key in after else self._current(key)
        if operation.if_match is not None or operation.if_none_match is not None:
            _check_preconditions(operation, current, self._epoch8)
        decision = _decide(operation, current)
        if decision is None:
            return Outcome(operation, current, None, current.revision if current else self._head.revision)
        draft = _Draft(operation, current, *decision)
        drafts.append(draft)
        revision = self._head.revision + len(self.changes) + len(drafts)
        after[key] = self._route_after(draft, revision)
        return Outcome(operation, after[key], draft.action, revision)

    def _check_quotas(
        self, operations: Sequence[Operation], drafts: Sequence[_Draft], *, is_batch: bool
    ) -> None:
        """Raise QuotaExceeded if a tenant would have more routes than it may, and more than before: what a batch
        comes to counts, whatever the order of its operations."""
        growth = Counter[str]()
        for draft in drafts:
            growth[draft.operation.key.tenant] += _GROWTH.get(draft.action, 0)
        for tenant, routes in growth.items():
            quota = self._quotas.get(tenant)
            if quota is None or routes <= 0 or quota.used + self._grown[tenant] + routes <= quota.most:
                continue
            failure = QuotaExceeded(tenant, "routes", quota.most)
            if not is_batch:
                raise failure
            last = max(i for i, wish in enumerate(operations) if wish.key.tenant == tenant and wish.creates)
            raise BatchFailed(last, failure)
        self._grown.update(growth)

    def _current(self, key: RouteKey) -> Route | None:
        return self.after[key] if key in self.after else self._before.get(key)

    def _route_after(self, draft: _Draft, revision: int) -> Route | None:
        if draft.url is None:
            return None
        created_at = draft.before.created_at if draft.before else self._now
        return Route(draft.operation.key, draft.url, draft.is_active, revision, created_at, self._now)

    def _record(self, drafts: Sequence[_Draft], author: Author) -> None:
        """Number the changes of a request that went well; they become visible together."""
        last = self._head.revision + len(self.changes)
        for revision, draft in enumerate(drafts, last + 1):
            change = Change(
                revision=revision,
                batch_end=last + len(drafts),
                key=draft.operation.key,
                action=draft.action,
                url=draft.url,
                is_active=draft.is_active,
                previous=_as_json(draft.before),
                actor=author.actor,
                reason=author.reason,
                correlation_id=author.correlation_id,
                occurred_at=self._now,
                address=author.address,
            )
            self.changes.append(change)
            if author.trace is not None:
                self.traces[revision] = author.trace


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
    return orjson.dumps(state).decode()


def keys_of(operations: Collection[Operation]) -> set[RouteKey]:
    """Return the keys that *operations* touch."""
    return {operation.key for operation in operations}
