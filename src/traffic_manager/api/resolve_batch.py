"""The call that resolves many keys at one revision."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Response

from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Operation, Principal
from traffic_manager.api import schemas
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.context import GivenParts, MinRevision, Parts, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.api.problems import PROBLEMS, JsonObject
from traffic_manager.api.requests import StrictRoute
from traffic_manager.api.resolve import freshness
from traffic_manager.errors import FieldProblem, Forbidden, InvalidInput, RouteNotFound
from traffic_manager.monitoring.resolve_counts import ResolveOutcome
from traffic_manager.routing.batch_resolver import Answers
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.ports import Entry

router = APIRouter(prefix="/api/v1/routes", route_class=StrictRoute, tags=["routes"])

_CODES = {PROBLEMS[kind].status: PROBLEMS[kind].code for kind in (RouteNotFound, Forbidden)}
# Whoever repairs a list of keys reads only the first.
_MAX_PROBLEMS = 32
# Above this many, names are checked on a thread: 1,000 keys take 3 ms.
_FEW_KEYS = 50


@router.post("/resolve", **documented(200, schemas.ResolveBatchAnswer, 400, 412, 413, 415, 422, 503))
async def resolve_batch(
    body: schemas.KeysBody,
    parts: GivenParts,
    caller: GivenCaller,
    at_least: MinRevision,
    cache_control: Annotated[str | None, Header(description="`no-cache` reads the database.")] = None,
) -> Response:
    """Return the URLs that serve up to 1,000 versions, in their order and all as of one revision. A key without
    an active route has a result, too: its `status` is 404; and 403 one that the caller may not resolve."""
    few = len(body.keys) <= _FEW_KEYS
    keys = _keys(body.keys) if few else await asyncio.to_thread(_keys, body.keys)
    is_strong = "no-cache" in (cache_control or "").lower()
    permitted = _permitted(caller, keys)
    tenants, refused = [key.tenant for key in permitted], len(keys) - len(permitted)
    parts.limiter.charge_each(Kind.RESOLVES, caller.counted_as, tenants, refused)
    try:
        answers = await parts.batch_resolver.resolve(permitted, is_strong=is_strong, at_least=at_least)
    except BaseException:
        parts.metrics.resolved_in_batch(ResolveOutcome.UNAVAILABLE, len(permitted))
        raise
    _count(parts, permitted, answers)
    as_of = Position(answers.epoch8, answers.as_of)
    entries = dict(zip(permitted, answers.entries, strict=True))
    document = {"results": [_result(key, entries) for key in keys], "as_of": str(as_of)}
    return json_answer(document, as_of, headers=freshness(answers.stale_age_s))


def _keys(bodies: Sequence[schemas.KeyBody]) -> list[RouteKey]:
    """Return the keys. Raises InvalidInput that says where the first ill-formed names stand."""
    keys: list[RouteKey] = []
    problems: list[FieldProblem] = []
    for index, body in enumerate(bodies):
        try:
            keys.append(RouteKey.of(body.tenant, body.service, body.env, body.version))
        except InvalidInput as error:
            problems += [replace(p, pointer=f"/keys/{index}/{p.field}") for p in error.problems]
            if len(problems) >= _MAX_PROBLEMS:
                break
    if problems:
        raise InvalidInput(*problems[:_MAX_PROBLEMS])
    return keys


def _permitted(caller: Principal, keys: Sequence[RouteKey]) -> list[RouteKey]:
    """Return those of *keys* that *caller* may resolve."""
    places = {(key.tenant, key.env) for key in keys}
    open_places = {place for place in places if caller.may(Operation.RESOLVE, *place)}
    if open_places == places:
        return list(keys)
    return [key for key in keys if (key.tenant, key.env) in open_places]


def _result(key: RouteKey, entries: Mapping[RouteKey, Entry | None]) -> JsonObject:
    """Return the result of *key*, which may not be resolved, whatever there is, if it is not among *entries*."""
    entry = entries.get(key)
    status = 200 if entry else 404 if key in entries else 403
    tenant, service, env, version = key
    return {
        "status": status,
        "tenant": tenant,
        "service": service,
        "env": env,
        "version": version,
        "url": entry.url if entry else None,
        "revision": entry.revision if entry else None,
        "code": _CODES.get(status),
    }


def _count(parts: Parts, keys: Sequence[RouteKey], answers: Answers) -> None:
    """Count each key as a resolve of its own."""
    known = [e for k, e in zip(keys, answers.entries, strict=True) if k not in answers.missed]
    negative = known.count(None)
    count = parts.metrics.resolved_in_batch
    count(ResolveOutcome.HIT, len(known) - negative)
    count(ResolveOutcome.NEGATIVE, negative)
    count(ResolveOutcome.MISS, len(keys) - len(known))
    if answers.stale_age_s is not None:
        parts.metrics.tm_resolve_flagged_total.inc(len(keys))
