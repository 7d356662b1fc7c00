"""Calls on API keys, and `whoami`: what the caller's own credential may do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from fastapi import APIRouter, Response

from traffic_manager.access.key_registry import Issued
from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import ANY, Grant, Operation, Principal, operations_of
from traffic_manager.access.ports import ApiKey
from traffic_manager.api import schemas
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.context import GivenAuthor, GivenParts, PageSize, PageToken, Parts, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.api.idempotency import REPLAYED
from traffic_manager.api.problems import JsonObject
from traffic_manager.api.requests import StrictRoute
from traffic_manager.errors import FieldProblem, InvalidInput
from traffic_manager.routing.model import name_problem, rfc3339
from traffic_manager.routing.resolver import CATCH_UP_S

router = APIRouter(prefix="/api/v1", route_class=StrictRoute, tags=["access"])


@router.get("/whoami", **documented(200, schemas.WhoAmIAnswer, 400))
async def whoami(parts: GivenParts, caller: GivenCaller) -> Response:
    """Return who the caller is here, what they may do where, and what says so."""
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    document = {
        "name": caller.name,
        "credential": caller.credential,
        "key_id": caller.key_id,
        "expires_at": None if caller.expires_at is None else rfc3339(int(caller.expires_at * 1_000_000)),
        "auth_mode": "open" if parts.gate.is_open else "required",
        "grants": [
            {**grant, "source": source}
            for grant, source in zip(_grants_json(caller.grants), caller.sources, strict=True)
        ],
    }
    head = parts.mirror.head
    return json_answer(document, head.position if head else None)


@router.get("/keys", **documented(200, schemas.KeysAnswer, 400))
async def list_keys(
    parts: GivenParts, caller: GivenCaller, page_size: PageSize = 100, page_token: PageToken = None
) -> Response:
    """Return the keys that the caller administers, in the order of their ids."""
    caller.check_anywhere(Operation.LIST_KEYS)
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    after = parts.page_tokens.id_after(page_token, ["keys"])
    head, keys = await parts.reads.run(lambda: parts.key_registry.keys(caller))
    following = [key for key in keys if key.id > after]
    page = following[:page_size]
    token = parts.page_tokens.token_of(page[-1].id, ["keys"]) if len(following) > page_size else None
    return json_answer({"keys": [key_json(key) for key in page], "next_page_token": token}, head.position)


@router.post(
    "/keys", status_code=201, **documented(201, schemas.IssuedKeyAnswer, 400, 409, 413, 415, 422, 501)
)
async def create_key(
    body: schemas.NewKeyBody, parts: GivenParts, caller: GivenCaller, author: GivenAuthor
) -> Response:
    """Make a key. It can hold only where the caller administers keys; its text is shown this once, also to a request
    that is sent again with its `Idempotency-Key`: that is 409."""
    grants, lifetime = _grants(body), timedelta(days=body.expires_in_days)
    caller.check_anywhere(Operation.CREATE_KEY)
    parts.limiter.charge(Kind.WRITES, caller.counted_as, _tenant_charged(caller, grants))
    issued = await parts.reads.run(
        lambda: parts.key_registry.create(caller, author, body.owner, grants, lifetime)
    )
    return await _issued_answer(parts, issued)


@router.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    **documented(201, schemas.IssuedKeyAnswer, 400, 404, 409, 413, 415, 422, 501),
)
async def rotate_key(
    key_id: str, body: schemas.RotationBody, parts: GivenParts, caller: GivenCaller, author: GivenAuthor
) -> Response:
    """Make a key with the same owner and grants; the old one stays in force for `overlap_seconds`."""
    caller.check_anywhere(Operation.ROTATE_KEY)
    parts.limiter.charge(Kind.WRITES, caller.counted_as, None)
    overlap, lifetime = timedelta(seconds=body.overlap_seconds), timedelta(days=body.expires_in_days)
    issued = await parts.reads.run(
        lambda: parts.key_registry.rotate(caller, author, key_id, overlap, lifetime)
    )
    return await _issued_answer(parts, issued)


@router.post("/keys/{key_id}/revoke", **documented(200, schemas.KeyAnswer, 400, 404, 422))
async def revoke_key(key_id: str, parts: GivenParts, caller: GivenCaller, author: GivenAuthor) -> Response:
    """End a key for good, on every worker within a second. Nothing changes if it was revoked before."""
    caller.check_anywhere(Operation.REVOKE_KEY)
    parts.limiter.charge(Kind.WRITES, caller.counted_as, None)
    revoked = await parts.reads.run(lambda: parts.key_registry.revoke(caller, author, key_id))
    await parts.follower.reached(revoked.head.revision, CATCH_UP_S)
    headers = [REPLAYED] if revoked.is_replay else None
    return json_answer(key_json(revoked.key), revoked.head.position, headers=headers)


async def _issued_answer(parts: Parts, issued: Issued) -> Response:
    """Return the answer once this worker's own door knows the key (or 100 ms later)."""
    await parts.follower.reached(issued.head.revision, CATCH_UP_S)
    document = key_json(issued.key) | {"key": str(issued.secret)}
    response = json_answer(document, issued.head.position, 201)
    response.headers["Cache-Control"] = "no-store"
    return response


def _grants(body: schemas.NewKeyBody) -> list[Grant]:
    """Return the grants. Raises InvalidInput that names every ill-formed name."""
    found = [_problem_at("owner", body.owner, "/owner")]
    for index, grant in enumerate(body.grants):
        for field, name in (("tenant", grant.tenant), ("env", grant.env)):
            if name != ANY:
                found.append(_problem_at(field, name, f"/grants/{index}/{field}"))
    problems = [problem for problem in found if problem]
    if problems:
        raise InvalidInput(*problems)
    return [Grant.known(grant.role, grant.tenant, grant.env) for grant in body.grants]


def _tenant_charged(caller: Principal, grants: Sequence[Grant]) -> str | None:
    """Return whose limit a key with *grants* counts against: the one tenant's that it is for, if *caller* may make
    it, for strangers use nothing up; else None."""
    tenants = {grant.tenant for grant in grants}
    is_permitted = all(caller.may(Operation.CREATE_KEY, *grant.place) for grant in grants)
    return tenants.pop() if len(tenants) == 1 and is_permitted else None


def _problem_at(field: str, name: str, pointer: str) -> FieldProblem | None:
    problem = name_problem(field, name)
    return FieldProblem(field, problem.code, problem.detail, pointer) if problem else None


def key_json(key: ApiKey) -> JsonObject:
    """Return *key* as the API shows it."""
    is_live = key.is_live(time.time_ns() // 1000)
    return {
        "id": key.id,
        "owner": key.owner,
        "grants": _grants_json(key.grants),
        "state": "revoked" if key.revoked_at is not None else "live" if is_live else "expired",
        "created_at": rfc3339(key.created_at),
        "created_by": key.created_by,
        "expires_at": rfc3339(key.expires_at),
        "revoked_at": None if key.revoked_at is None else rfc3339(key.revoked_at),
    }


def _grants_json(grants: Sequence[Grant]) -> list[JsonObject]:
    return [
        {"role": g.role, "tenant": g.tenant or ANY, "env": g.env or ANY, "operations": operations_of(g)}
        for g in grants
    ]
