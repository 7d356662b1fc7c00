"""Keys, operations and changes for tests of the rules, and how to write them past the registry."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec

from traffic_manager.routing.model import Action, Change, Route, RouteKey
from traffic_manager.routing.operations import Author, Operation, Outcome, Overlay, Verb, keys_of
from traffic_manager.routing.ports import RouteStore

EPOCH = "0f8e5b1c2d3a4e5f8a9b0c1d2e3f4a5b"
OTHER_EPOCH = "ffffffffffffffffffffffffffffffff"
URL = "https://payments.example.com/v2"
OTHER_URL = "https://payments.example.com/v3"
AUTHOR = Author("alice", "c-1")
AT_2026 = 1_767_225_600_000_000

P = ParamSpec("P")


def a_key(
    service: str = "payments", version: str = "v2", env: str = "prod", tenant: str = "team-a"
) -> RouteKey:
    """Return a valid key."""
    return RouteKey.of(tenant, service, env, version)


def a_route(key: RouteKey | None = None, *, url: str = URL, active: bool = True, revision: int = 1) -> Route:
    """Return a route as it was at *revision*."""
    return Route(key or a_key(), url, active, revision, AT_2026, AT_2026 + revision)


def a_change(
    revision: int, key: RouteKey | None = None, url: str | None = URL, *, batch_end: int | None = None
) -> Change:
    """Return a change that leaves an active route with *url*, or none if it is None."""
    action = Action.DELETED if url is None else Action.UPDATED
    end = batch_end or revision
    at = AT_2026 + revision
    return Change(revision, end, key or a_key(), action, url, url is not None, None, "alice", None, "c-1", at)


def create(
    key: RouteKey | None = None, url: str = URL, **more: Any
) -> Operation:  # Any: an operation's fields
    """Wish for a new route."""
    return Operation(Verb.CREATE, key or a_key(), url, **more)


def put(key: RouteKey | None = None, url: str = URL, **more: Any) -> Operation:  # Any: an operation's fields
    """Wish for a route with this URL."""
    return Operation(Verb.PUT, key or a_key(), url, **more)


def activate(key: RouteKey | None = None, **more: Any) -> Operation:  # Any: an operation's fields
    """Wish for an active route."""
    return Operation(Verb.ACTIVATE, key or a_key(), **more)


def deactivate(key: RouteKey | None = None, **more: Any) -> Operation:  # Any: an operation's fields
    """Wish for an inactive route."""
    return Operation(Verb.DEACTIVATE, key or a_key(), **more)


def delete(key: RouteKey | None = None, **more: Any) -> Operation:  # Any: an operation's fields
    """Wish for no route."""
    return Operation(Verb.DELETE, key or a_key(), **more)


def commit(store: RouteStore, *operations: Operation) -> list[Outcome]:
    """Make one change of each of *operations*, in one transaction."""
    return commit_batches(store, *([operation] for operation in operations))


def commit_batches(store: RouteStore, *batches: Sequence[Operation]) -> list[Outcome]:
    """Write all *batches* in one transaction, each visible as a whole."""
    outcomes: list[Outcome] = []
    with store.writing(keys_of([operation for batch in batches for operation in batch])) as transaction:
        overlay = Overlay(transaction.head, transaction.now, transaction.routes)
        for batch in batches:
            outcomes += overlay.apply(batch, AUTHOR, is_batch=True)
        if overlay.changes:
            transaction.append(overlay.changes, overlay.after)
    return outcomes


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run
