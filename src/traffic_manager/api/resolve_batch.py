"""The call that resolves many keys at one revision."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Response

from traffic_manager.access.permissions import Operation
from traffic_manager.api import schemas
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.context import GivenParts, MinRevision, Parts, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.api.problems import PROBLEMS, JsonObject
from traffic_manager.api.requests import StrictRoute
from traffic_manager.api.resolve import freshness
from traffic_manager.errors import Forbidden, InvalidInput, RouteNotFound
from traffic_manager.monitoring.resolve_counts import ResolveOutcome
from traffic_manager.routing.batch_resolver import Answers
from traffic_manager.routing.model import NAME_FIELDS, Position, RouteKey, name_problem
from traffic_manager.routing.ports import Entry

router = APIRouter(prefix="/api/v1/routes", route_class=StrictRoute, tags=["routes"])

_NOT_FOUND = PROBLEMS[RouteNotFound].code
_FORBIDDEN = PROBLEMS[Forbidden].code
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
    permitted = [key for key in keys if caller.may(Operation.RESOLVE, key.tenant, key.env)]
    try:
        answers = await parts.batch_resolver.resolve(permitted, is_strong=is_strong, at_least=at_least)
    except BaseException:
        parts.metrics.resolved_in_batch(ResolveOutcome.UNAVAILABLE, len(permitted))
        raise
    _count(parts, permitted, answers)
    as_of = Position(answers.epoch8, answers.as_of)
    entries = dict(zip(permitted, answers.entries, strict=True))
    results = [_result(key, entries[key]) if key in entries else _refused(key) for key in keys]
    document = {"results": results, "as_of": str(as_of)}
    return json_answer(document, as_of, headers=freshness(answers.stale_age_s))


def _keys(bodies: Sequence[schemas.KeyBody]) -> list[RouteKey]:
    """Return the keys. Raises InvalidInput that says where the first ill-formed names stand."""
    names = [(body.tenant, body.service, body.env, body.version) for body in bodies]
    problems = (
        replace(problem, pointer=f"/keys/{index}/{field}")
        for index, four in enumerate(names)
        for field, name in zip(NAME_FIELDS, four, strict=True)
        if (problem := name_problem(field, name))
    )
    if found := list(islice(problems, _MAX_PROBLEMS)):
        raise InvalidInput(*found)
    return [RouteKey.known(*four) for four in names]


def _result(key: RouteKey, entry: Entry | None) -> JsonObject:
    return {
        "status": 200 if entry else 404,
        **key._asdict(),
        "url": entry.url if entry else None,
        "revision": entry.revision if entry else None,
        "code": None if entry else _NOT_FOUND,
    }


def _refused(key: RouteKey) -> JsonObject:
    """Return the result of a key that may not be resolved, whatever there is."""
    return {"status": 403, **key._asdict(), "url": None, "revision": None, "code": _FORBIDDEN}


def _count(parts: Parts, keys: Sequence[RouteKey], answers: Answers) -> None:
    """Count each key as a resolve of its own."""
    outcomes = Counter(
        ResolveOutcome.MISS
        if key in answers.missed
        else ResolveOutcome.HIT
        if entry
        else ResolveOutcome.NEGATIVE
        for key, entry in zip(keys, answers.entries, strict=True)
    )
    for outcome, count in outcomes.items():
        parts.metrics.resolved_in_batch(outcome, count)
    if answers.stale_age_s is not None:
        parts.metrics.tm_resolve_flagged_total.inc(len(keys))
