"""Changes over HTTP, for the write lane and the documented routes: what may be asked for, and the answer to it."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from traffic_manager.access.permissions import Operation as Access
from traffic_manager.access.permissions import Principal
from traffic_manager.api.context import Parts
from traffic_manager.api.idempotency import REPLAYED
from traffic_manager.api.problems import Headers, route_json
from traffic_manager.api.reason import missing_reason
from traffic_manager.errors import FieldProblem, InvalidInput
from traffic_manager.routing.model import Action, Position, RouteKey
from traffic_manager.routing.operations import Author, Operation, Outcome, Verb
from traffic_manager.routing.ports import Sighting
from traffic_manager.routing.registry import Written

Rendered = tuple[int, Headers, bytes]

_ACCESS = {verb: Access(verb.value) for verb in Verb}


def operation_of(
    parts: Parts,
    caller: Principal,
    author: Author,
    verb: Verb,
    names: Sequence[str],
    url: str | None = None,
    is_active: bool | None = None,
) -> Operation:
    """Return the operation. Raises InvalidInput that names every wrong field, Forbidden where it is not permitted."""
    problems: list[FieldProblem] = []
    tenant: str | None = None
    try:
        key = RouteKey.of(*names)
        tenant = key.tenant
    except InvalidInput as error:
        problems += error.problems
    if url is not None and (problem := parts.url_policy.problem(url, tenant)):
        problems.append(problem)
    if problems:
        raise InvalidInput(*problems)
    caller.check(_ACCESS[verb], key.tenant, key.env)
    if author.reason is None and parts.settings.app.asks_for_reason(key.tenant):
        raise missing_reason()
    return Operation(verb, key, url, is_active)


async def write_one(parts: Parts, author: Author, operation: Operation) -> Rendered:
    """Do *operation*; return status, headers and body of the answer, when it is committed."""
    return rendered(parts, operation, await parts.write(parts.registry.write(operation, author)))


def rendered(parts: Parts, operation: Operation, written: Written) -> Rendered:
    """Return the answer to *operation*, which came to *written*; later resolves do not go back below it."""
    outcome, head = written.outcomes[0], written.head
    seen = {operation.key: outcome.route} if outcome.route else {}
    parts.resolver.saw(operation.key, Sighting(head, seen))
    as_of = Position(head.epoch8, outcome.revision if outcome.action else head.revision)
    replayed = [REPLAYED] if written.is_replay else []
    if outcome.route is None:
        return 204, [(b"tm-revision", str(as_of).encode()), *replayed], b""
    body = orjson.dumps(route_json(outcome.route))
    tag = str(Position(as_of.epoch8, outcome.route.revision))
    headers: Headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
        (b"tm-revision", str(as_of).encode()),
        (b"cache-control", b"private, no-cache"),
        (b"etag", f'"{tag}"'.encode()),
        *replayed,
    ]
    if outcome.action is Action.CREATED:
        headers.append((b"location", f"/api/v1/routes/{outcome.route.key}".encode()))
    return status_of(outcome), headers, body


def status_of(outcome: Outcome) -> int:
    """Return the status that says what an operation came to."""
    if outcome.route is None:
        return 204
    return 201 if outcome.action is Action.CREATED else 200
