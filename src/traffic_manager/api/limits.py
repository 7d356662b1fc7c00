"""Calls on limits: how much tenants and principals may ask for and have."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Response

from traffic_manager.access.limits import Kind, Subject
from traffic_manager.access.permissions import Operation
from traffic_manager.api import schemas
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.context import GivenAuthor, GivenParts, PageSize, PageToken, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.api.idempotency import REPLAYED
from traffic_manager.api.requests import StrictRoute
from traffic_manager.errors import FieldProblem, InvalidInput
from traffic_manager.routing.model import name_problem
from traffic_manager.routing.ports import Limit
from traffic_manager.routing.resolver import CATCH_UP_S

router = APIRouter(prefix="/api/v1/limits", route_class=StrictRoute, tags=["limits"])

_ASKED = ("limits",)
GivenSubject = Annotated[str, Path(description="`tenant`, or `principal`: an owner of keys.")]


@router.get("", **documented(200, schemas.LimitsAnswer, 400))
async def list_limits(
    parts: GivenParts, caller: GivenCaller, page_size: PageSize = 100, page_token: PageToken = None
) -> Response:
    """Return what is set for tenants and principals, in the order of their names; others go by the settings."""
    caller.check(Operation.LIST_LIMITS, None, None)
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    after = parts.page_tokens.id_after(page_token, _ASKED)
    head, limits = await parts.reads.run(lambda: parts.limit_registry.limits(caller))
    following = [limit for limit in limits if _id_of(limit) > after]
    page = following[:page_size]
    token = parts.page_tokens.token_of(_id_of(page[-1]), _ASKED) if len(following) > page_size else None
    return json_answer({"limits": [asdict(limit) for limit in page], "next_page_token": token}, head.position)


@router.put("/{subject}/{name}", **documented(200, schemas.LimitAnswer, 400, 413, 415, 422))
async def put_limit(
    subject: GivenSubject,
    name: str,
    body: schemas.LimitBody,
    parts: GivenParts,
    caller: GivenCaller,
    author: GivenAuthor,
) -> Response:
    """Set all figures of a tenant or principal, in force on every worker within a second. One that is absent or null
    is as the settings say, and with none of them nothing is set any more."""
    caller.check(Operation.SET_LIMIT, None, None)
    limit = Limit(*_checked(subject, name), **body.model_dump())
    parts.limiter.charge(Kind.WRITES, caller.counted_as, None)
    came_to = await parts.reads.run(lambda: parts.limit_registry.put(caller, author, limit))
    await parts.follower.reached(came_to.head.revision, CATCH_UP_S)
    headers = [REPLAYED] if came_to.is_replay else None
    return json_answer(asdict(limit), came_to.head.position, headers=headers)


def _id_of(limit: Limit) -> str:
    return f"{limit.subject}/{limit.name}"


def _checked(subject: str, name: str) -> tuple[str, str]:
    """Return both. Raises InvalidInput that names each that is wrong."""
    problems = [problem] if (problem := name_problem("name", name)) else []
    if subject not in list(Subject):
        problems.append(FieldProblem("subject", "invalid-parameter", "must be tenant or principal"))
    if problems:
        raise InvalidInput(*problems)
    return subject, name
