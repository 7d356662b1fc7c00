"""What every handler works with: the parts that `main` joined, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import orjson
from fastapi import Depends, Header, Query, Request, Response

from traffic_manager.access.key_registry import KeyRegistry
from traffic_manager.access.limit_registry import LimitRegistry
from traffic_manager.access.limiter import Limiter
from traffic_manager.access.permissions import Principal
from traffic_manager.api.access import Gate, principal_of
from traffic_manager.api.idempotency import idempotency_key_in
from traffic_manager.api.origin import Peer, TrustedProxies
from traffic_manager.api.pages import PageTokens
from traffic_manager.api.problems import Headers
from traffic_manager.api.reason import reason_in
from traffic_manager.api.requests import WHOLE_NUMBER
from traffic_manager.api.turns import Turns
from traffic_manager.config.settings import Settings
from traffic_manager.errors import FieldProblem, InvalidInput
from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.monitoring.health import Health
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload
from traffic_manager.monitoring.spans import Parent, current_context
from traffic_manager.routing.batch_resolver import BatchResolver
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import NAME_FIELDS, Position, Trace, name_problem
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Head, NameFilter, RouteStore
from traffic_manager.routing.registry import Registry, Written
from traffic_manager.routing.resolver import CATCH_UP_S, Resolver
from traffic_manager.routing.urls import UrlPolicy
from traffic_manager.routing.watchers import Watcher, Watchers

if TYPE_CHECKING:
    from traffic_manager.monitoring.tracing import Tracing

Result = TypeVar("Result")


@dataclass(frozen=True)
class Parts:
    """All that the API needs, opened by `main`."""

    settings: Settings
    metrics: Metrics
    health: Health
    mirror: Mirror
    follower: Follower
    watchers: Watchers
    resolver: Resolver
    batch_resolver: BatchResolver
    registry: Registry
    store: RouteStore
    reads: Bulkhead
    url_policy: UrlPolicy
    gate: Gate
    proxies: TrustedProxies
    key_registry: KeyRegistry
    page_tokens: PageTokens
    limiter: Limiter
    limit_registry: LimitRegistry
    # Tells the parent, if there is one, that this worker runs.
    beat: Callable[[], None] | None
    overload: Overload
    turns: Turns
    access_log: AccessLog
    tracing: Tracing | None
    # Whose snapshot reads the next portion of the mirror.
    scan_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    # So many watchers at a time read the database; other readers keep the rest of the threads.
    watchers_turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    def watching(self, caller: Principal, wanted: NameFilter, after: int) -> Watcher:
        """Return what *caller* waits with for changes that match, after revision *after*, for as long as it may."""
        owner = None if self.gate.is_open else caller.counted_as
        return self.watchers.watching(wanted, after, self.gate.still_admits(caller), owner)

    async def read(
        self, work: Callable[[], Result], at_least: Position | None, head_of: Callable[[Result], Head]
    ) -> Result:
        """Return what *work* reads from the database, not older than *at_least*."""
        result = await self.reads.run(work)
        if at_least is not None:
            head_of(result).check_reached(at_least)
        return result

    async def write(self, writing: Awaitable[Written]) -> Written:
        """Return what was written once this worker's own readers see it (or 100 ms later: then the caller's
        token makes them wait)."""
        began = perf_counter()
        try:
            written = await writing
        except BaseException:
            self.metrics.written(False, perf_counter() - began)
            raise
        self.metrics.written(True, perf_counter() - began, is_replay=written.is_replay)
        if written.has_changes:
            await self.follower.reached(written.head.revision, CATCH_UP_S)
        return written


async def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


def correlation_id_of(request: Request) -> str:
    """Return the id that this request's log lines, change and event carry."""
    return str(request.scope["state"]["correlation_id"])


def author_of(
    parts: Parts,
    caller: Principal,
    correlation_id: str,
    peer: Peer,
    headers: Headers,
    span: Parent | None,
) -> Author:
    """Return who asks for a change, whence and why, by what the request is named, and its span. Raises InvalidInput.
    The lane and the documented routes have it from here."""
    key, address = idempotency_key_in(headers), parts.proxies.address_of(peer, headers)
    trace = None if span is None else Trace(*span)
    return Author(caller.name, correlation_id, key, address, reason_in(headers), trace)


GivenReason = Annotated[
    str | None, Header(alias="TM-Reason", description="Why; it stands in the log of changes.")
]


async def _author(
    request: Request,
    _reason: GivenReason = None,
    _idempotency_key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="Names the request: sent again it is not done again."),
    ] = None,
) -> Author:
    scope, parts = request.scope, cast("Parts", request.app.state.parts)
    caller, correlation_id = principal_of(request), correlation_id_of(request)
    return author_of(parts, caller, correlation_id, scope["client"], scope["headers"], current_context())


async def _min_revision(
    tm_min_revision: Annotated[
        str | None,
        Header(description="Answer as of this revision or later: a `TM-Revision` that was seen before."),
    ] = None,
) -> Position | None:
    return Position.parse(tm_min_revision, "TM-Min-Revision") if tm_min_revision is not None else None


# All of them async, little as they do: FastAPI would send each plain function to a thread and back.
GivenParts = Annotated[Parts, Depends(_parts)]
GivenAuthor = Annotated[Author, Depends(_author)]
MinRevision = Annotated[Position | None, Depends(_min_revision)]


def name_filter(
    tenant: str | None = None, service: str | None = None, env: str | None = None, version: str | None = None
) -> NameFilter:
    """Return the filter for these names. Raises InvalidInput for names that no route can have."""
    names = (tenant, service, env, version)
    given = [(field, name) for field, name in zip(NAME_FIELDS, names, strict=True) if name is not None]
    problems = [p for field, name in given if (p := name_problem(field, name))]
    if problems:
        raise InvalidInput(*problems)
    return NameFilter(*names)


async def _name_filter(
    tenant: str | None = None, service: str | None = None, env: str | None = None, version: str | None = None
) -> NameFilter:
    return name_filter(tenant, service, env, version)


GivenNames = Annotated[NameFilter, Depends(_name_filter)]
PageSize = Annotated[int, WHOLE_NUMBER, Query(ge=1, le=500, description="At most this many on a page.")]
PageToken = Annotated[str | None, Query(description="`next_page_token` of the page before.")]


def json_answer(
    document: Any, as_of: Position | None, status: int = 200, headers: Headers | None = None
) -> Response:
    """Return *document* (any JSON value) with the general headers of an answer."""
    response = Response(orjson.dumps(document), status_code=status, media_type="application/json")
    if as_of is not None:
        response.headers["TM-Revision"] = str(as_of)
    response.headers["Cache-Control"] = "private, no-cache"
    for name, value in headers or []:
        response.headers[name.decode()] = value.decode()
    return response


def invalid(field: str, code: str, detail: str) -> InvalidInput:
    """Return the error for one broken rule."""
    return InvalidInput(FieldProblem(field, code, detail))
