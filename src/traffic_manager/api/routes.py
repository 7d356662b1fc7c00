"""Calls on routes: resolve, create, put, switch, delete, list, history and batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Operation as Access
from traffic_manager.access.permissions import Principal
from traffic_manager.api import schemas
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.changes import change_json, position_of
from traffic_manager.api.context import (
    GivenAuthor,
    GivenNames,
    GivenParts,
    MinRevision,
    PageSize,
    PageToken,
    Parts,
    correlation_id_of,
    json_answer,
)
from traffic_manager.api.documents import documented
from traffic_manager.api.idempotency import REPLAYED
from traffic_manager.api.problems import JsonObject, route_json
from traffic_manager.api.reason import FIELD
from traffic_manager.api.requests import NUMBER, TRUE_OR_FALSE, StrictRoute
from traffic_manager.api.resolve import matches, render_answer, tags_of
from traffic_manager.api.resolve_poll import not_older, wait_for_change
from traffic_manager.api.writes import operation_of, status_of, write_one
from traffic_manager.errors import BatchFailed, FieldProblem, Forbidden, InvalidInput, RouteNotFound
from traffic_manager.monitoring.resolve_counts import ResolveOutcome
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.operations import Author, Operation, Outcome, Verb
from traffic_manager.routing.resolver import Answer

router = APIRouter(prefix="/api/v1/routes", route_class=StrictRoute, tags=["routes"])


class Names(NamedTuple):
    """The four names of a route, as they came."""

    tenant: str
    service: str
    env: str
    version: str


async def _names_in_path(tenant: str, service: str, env: str, version: str) -> Names:
    return Names(tenant, service, env, version)


class Preconditions(NamedTuple):
    """What the route must be, by its tags; None: anything."""

    if_match: frozenset[str] | None
    if_none_match: frozenset[str] | None

    def on(self, operation: Operation) -> Operation:
        """Return *operation* with these preconditions."""
        return operation._replace(if_match=self.if_match, if_none_match=self.if_none_match)


async def _preconditions(
    if_match: Annotated[
        str | None, Header(description="Only if the route has this ETag (`*`: if it exists), else 412.")
    ] = None,
    if_none_match: Annotated[
        str | None, Header(description="`*`: only if the route does not exist, else 412.")
    ] = None,
) -> Preconditions:
    return Preconditions(tags_of(if_match, "If-Match"), tags_of(if_none_match, "If-None-Match"))


class Writing(NamedTuple):
    """A request to change one route."""

    parts: Parts
    caller: Principal
    author: Author
    preconditions: Preconditions

    async def do(
        self, verb: Verb, names: Sequence[str], url: str | None = None, is_active: bool | None = None
    ) -> Response:
        """Do it, and return the answer when it is committed. Raises InvalidInput, Forbidden, RateLimited, and what
        the registry refuses with."""
        parts, caller, author = self.parts, self.caller, self.author
        operation = self.preconditions.on(operation_of(parts, caller, author, verb, names, url, is_active))
        parts.limiter.charge(Kind.WRITES, caller.counted_as, operation.key.tenant)
        status, headers, body = await write_one(parts, author, operation)
        response = Response(body, status_code=status)
        response.raw_headers[:] = headers
        return response


async def _writing(
    parts: GivenParts,
    caller: GivenCaller,
    author: GivenAuthor,
    preconditions: Annotated[Preconditions, Depends(_preconditions)],
) -> Writing:
    return Writing(parts, caller, author, preconditions)


NamesInPath = Annotated[Names, Depends(_names_in_path)]
GivenWriting = Annotated[Writing, Depends(_writing)]


@router.get("/resolve", **documented(200, schemas.ResolveAnswer, 304, 400, 404, 412, 503))
async def resolve(
    request: Request,
    parts: GivenParts,
    caller: GivenCaller,
    at_least: MinRevision,
    tenant: str,
    service: str,
    env: str,
    version: str,
    if_none_match: Annotated[str | None, Header(description="304 if the route still has this ETag.")] = None,
    cache_control: Annotated[str | None, Header(description="`no-cache` reads the database.")] = None,
    after: Annotated[
        str | None,
        Query(description="With `wait`: a revision of the route, or a `TM-Revision`, that you know."),
    ] = None,
    wait: Annotated[
        float,
        NUMBER,
        Query(ge=0, le=60, description="Seconds to wait for the route to change after `after`."),
    ] = 0,
) -> Response:
    """Return the URL that serves a version now: from memory, unless the headers ask for more. With `wait` the answer
    comes when the route has changed, or when time is up."""
    key = _key_for(parts, caller, Access.RESOLVE, Kind.RESOLVES, (tenant, service, env, version))
    is_strong = "no-cache" in (cache_control or "").lower()
    known = position_of(after, "after") if after is not None else None
    answer = await _resolved(parts, key, is_strong, at_least)
    if known is not None and (not_before := not_older(answer, known)):
        answer = await _resolved(parts, key, is_strong, not_before)
    if wait and await wait_for_change(parts, caller, key, answer, known, wait):
        answer = await _resolved(parts, key, is_strong, None)
    if answer.stale_age_s is not None:
        parts.metrics.tm_resolve_flagged_total.inc()
    tags = if_none_match.encode("latin-1", "replace") if if_none_match is not None else None
    status, headers, body = render_answer(answer, key, tags, correlation_id_of(request))
    response = Response(body, status_code=status)
    response.raw_headers[:] = headers
    return response


def _key_for(parts: Parts, caller: Principal, access: Access, kind: Kind, names: Sequence[str]) -> RouteKey:
    """Return the key, if *caller* may do that with it, now. Raises InvalidInput, Forbidden, RateLimited."""
    key = RouteKey.of(*names)
    caller.check(access, key.tenant, key.env)
    parts.limiter.charge(kind, caller.counted_as, key.tenant)
    return key


async def _resolved(parts: Parts, key: RouteKey, is_strong: bool, at_least: Position | None) -> Answer:
    began = perf_counter()
    try:
        answer = await parts.resolver.resolve(key, is_strong=is_strong, at_least=at_least)
    except BaseException:
        parts.metrics.resolved(ResolveOutcome.UNAVAILABLE, perf_counter() - began)
        raise
    parts.metrics.resolved(ResolveOutcome[answer.source.name], perf_counter() - began)
    return answer


@router.post("", status_code=201, **documented(201, schemas.RouteAnswer, 400, 409, 412, 413, 415, 422, 503))
async def create(body: schemas.RouteBody, writing: GivenWriting) -> Response:
    """Create a route, active. 200 if the same active route exists, 409 if another one does."""
    return await writing.do(Verb.CREATE, _names_in(body), body.url)


@router.post("/activate", **documented(200, schemas.RouteAnswer, 400, 404, 409, 412, 413, 415, 422, 503))
async def activate(body: schemas.KeyBody, writing: GivenWriting) -> Response:
    """Let a route resolve. Nothing changes if it does already."""
    return await writing.do(Verb.ACTIVATE, _names_in(body))


@router.post("/deactivate", **documented(200, schemas.RouteAnswer, 400, 404, 409, 412, 413, 415, 422, 503))
async def deactivate(body: schemas.KeyBody, writing: GivenWriting) -> Response:
    """Keep a route, but let it resolve no more. Nothing changes if it does not already."""
    return await writing.do(Verb.DEACTIVATE, _names_in(body))


@router.post("/batch", **documented(200, schemas.BatchAnswer, 400, 404, 409, 412, 413, 415, 422, 503))
async def batch(
    body: schemas.BatchBody, parts: GivenParts, caller: GivenCaller, author: GivenAuthor
) -> Response:
    """Do up to 1,000 operations in one transaction: all, in their order, or none. The failing one's status and
    `index` are the answer then. With `dry_run` nothing is written."""
    # On a thread: to check a thousand URLs takes longer than other requests should wait for.
    operations = await asyncio.to_thread(_operations, parts, caller, author, body.operations)
    parts.limiter.charge_each(Kind.WRITES, caller.counted_as, [o.key.tenant for o in operations])
    if body.dry_run:
        written = await parts.reads.run(lambda: parts.registry.rehearse(operations, author))
    else:
        written = await parts.write(parts.registry.write_batch(operations, author))
    results = [_result_json(outcome) for outcome in written.outcomes]
    document = {"results": results, "revision": written.head.revision, "dry_run": body.dry_run}
    return json_answer(document, written.head.position, headers=[REPLAYED] if written.is_replay else None)


@router.get("", **documented(200, schemas.RoutesAnswer, 400, 412, 503))
async def list_routes(
    parts: GivenParts,
    caller: GivenCaller,
    at_least: MinRevision,
    wanted: GivenNames,
    is_active: Annotated[bool | None, TRUE_OR_FALSE] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Response:
    """Return the routes that have all the names asked for, in the order of their names."""
    asked = (*wanted.names, is_active)
    after = parts.page_tokens.key_after(page_token, asked)
    wanted = caller.narrowed(Access.LIST, wanted)
    parts.limiter.charge(Kind.LISTS, caller.counted_as, wanted.only_tenant)
    page = await parts.read(
        lambda: parts.store.page(wanted, is_active, after, page_size), at_least, lambda page: page.head
    )
    token = parts.page_tokens.token_of(page.last, asked) if page.last is not None else None
    document = {"routes": [route_json(route) for route in page.routes], "next_page_token": token}
    return json_answer(document, page.head.position)


@router.get(
    "/{tenant}/{service}/{env}/{version}", **documented(200, schemas.RouteAnswer, 304, 400, 404, 412, 503)
)
async def get(
    names: NamesInPath,
    parts: GivenParts,
    caller: GivenCaller,
    at_least: MinRevision,
    if_none_match: Annotated[str | None, Header(description="304 if the route still has this ETag.")] = None,
) -> Response:
    """Return a route, active or not, as the database has it."""
    key = _key_for(parts, caller, Access.GET, Kind.LISTS, names)
    sighting = await parts.read(lambda: parts.store.look_up([key]), at_least, lambda s: s.head)
    parts.resolver.saw(key, sighting)
    route, as_of = sighting.routes.get(key), sighting.head.position
    if route is None:
        raise _at(RouteNotFound(key), as_of)
    tag = f'"{_tag(as_of, route.revision)}"'
    if if_none_match is not None and matches(if_none_match.encode("latin-1"), tag.encode()):
        headers = {"ETag": tag, "TM-Revision": str(as_of), "Cache-Control": "private, no-cache"}
        return Response(status_code=304, headers=headers)
    return json_answer(route_json(route), as_of, headers=[(b"etag", tag.encode())])


@router.put(
    "/{tenant}/{service}/{env}/{version}",
    **documented(200, schemas.RouteAnswer, 400, 409, 412, 413, 415, 422, 503, also_201=True),
)
async def put(names: NamesInPath, body: schemas.PutBody, writing: GivenWriting) -> Response:
    """Make a route as wanted, whether it exists (200) or not (201)."""
    return await writing.do(Verb.PUT, names, body.url, body.is_active)


@router.delete(
    "/{tenant}/{service}/{env}/{version}",
    status_code=204,
    **documented(204, None, 400, 404, 409, 412, 422, 503),
)
async def delete(names: NamesInPath, writing: GivenWriting) -> Response:
    """Remove a route. Its history stays."""
    return await writing.do(Verb.DELETE, names)


@router.get(
    "/{tenant}/{service}/{env}/{version}/history", **documented(200, schemas.HistoryAnswer, 400, 412, 503)
)
async def history(
    names: NamesInPath,
    parts: GivenParts,
    caller: GivenCaller,
    at_least: MinRevision,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> Response:
    """Return the changes of a route, the newest first; empty if it never was."""
    key = _key_for(parts, caller, Access.HISTORY, Kind.LISTS, names)
    below = parts.page_tokens.revision_below(page_token, key)
    page = await parts.read(
        lambda: parts.store.history(key, below, page_size), at_least, lambda page: page.head
    )
    token = parts.page_tokens.token_of(page.last, key) if page.last is not None else None
    is_truncated = page.compacted_revision > 0 and not page.has_more
    document = {
        "changes": [change_json(change) for change in page.changes],
        "next_page_token": token,
        "truncated": is_truncated,
    }
    return json_answer(document, page.head.position)


def _result_json(outcome: Outcome) -> JsonObject:
    return {
        "operation": outcome.operation.verb.value,
        "status": status_of(outcome),
        "changed": outcome.action is not None,
        "action": outcome.action,
        "revision": outcome.revision,
        "route": route_json(outcome.route) if outcome.route else None,
    }


def _tag(as_of: Position, revision: int) -> str:
    return str(Position(as_of.epoch8, revision))


def _at(error: RouteNotFound, as_of: Position) -> RouteNotFound:
    error.as_of = as_of
    return error


def _names_in(body: schemas.KeyBody) -> Names:
    return Names(body.tenant, body.service, body.env, body.version)


def _operations(
    parts: Parts, caller: Principal, author: Author, bodies: Sequence[schemas.OperationBody]
) -> list[Operation]:
    """Return the operations of a batch. Raises BatchFailed with the first that is ill-formed or not permitted."""
    operations = []
    for index, body in enumerate(bodies):
        try:
            verb = body.verb
            _check_fields(body, verb)
            operation = operation_of(parts, caller, author, verb, _names_in(body), body.url, body.is_active)
            if body.if_match is not None:
                operation = operation._replace(if_match=tags_of(body.if_match, "if_match"))
            operations.append(operation)
        except InvalidInput as error:
            raise BatchFailed(index, _pointed(error, index)) from error
        except Forbidden as error:
            raise BatchFailed(index, error) from error
    return operations


def _check_fields(body: schemas.OperationBody, verb: Verb) -> None:
    takes_url = verb in (Verb.CREATE, Verb.PUT)
    if takes_url and body.url is None:
        raise InvalidInput(FieldProblem("url", "missing", f"{body.operation} needs a url"))
    if not takes_url and body.url is not None:
        raise InvalidInput(FieldProblem("url", "unknown-field", f"{body.operation} takes no url"))
    if verb is not Verb.PUT and body.is_active is not None:
        raise InvalidInput(FieldProblem("is_active", "unknown-field", f"{body.operation} takes no is_active"))


def _pointed(error: InvalidInput, index: int) -> InvalidInput:
    return InvalidInput(
        *(
            problem
            if problem.field == FIELD
            else replace(problem, pointer=f"/operations/{index}/{problem.field}")
            for problem in error.problems
        )
    )
