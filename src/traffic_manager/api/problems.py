"""From errors to HTTP: the one place that knows both. RFC 9457 problem documents.

The table PROBLEMS is what docs/errors.md and the OpenAPI description say; tests hold them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from zlib import crc32

import orjson

from traffic_manager import errors
from traffic_manager.errors import FieldProblem, TrafficManagerError
from traffic_manager.routing.model import Route, rfc3339

MEDIA_TYPE = b"application/problem+json"
TYPE_PREFIX = "urn:traffic-manager:"

Headers = list[tuple[bytes, bytes]]
JsonObject = dict[str, Any]  # Any: a JSON document


@dataclass(frozen=True)
class Problem:
    """One kind of failure: HTTP *status*, stable *code* at the end of its `type`, and a *title* for people."""

    status: int
    code: str
    title: str


PROBLEMS: dict[type[TrafficManagerError], Problem] = {
    errors.InvalidInput: Problem(422, "invalid-input", "The request breaks a rule"),
    errors.Unauthenticated: Problem(401, "unauthenticated", "A valid credential is needed"),
    errors.RateLimited: Problem(429, "rate-limited", "Too many requests"),
    errors.TooManyFailedSignIns: Problem(
        429, "too-many-failed-sign-ins", "Too many wrong credentials came from this address"
    ),
    errors.QuotaExceeded: Problem(403, "quota-exceeded", "The tenant has as many as it may"),
    errors.Forbidden: Problem(403, "forbidden", "The credential does not permit this"),
    errors.KeyNotFound: Problem(404, "key-not-found", "No such key"),
    errors.KeyIssuedBefore: Problem(409, "key-issued-before", "The key was made and shown before"),
    errors.KeysUnavailable: Problem(501, "keys-unavailable", "This server makes no keys"),
    errors.RouteNotFound: Problem(404, "route-not-found", "No such route"),
    errors.RouteConflict: Problem(409, "route-conflict", "The route exists already"),
    errors.IdempotencyKeyReused: Problem(
        422, "idempotency-key-reused", "The idempotency key names another request"
    ),
    errors.RequestUnderWay: Problem(409, "request-under-way", "The same request is being worked on"),
    errors.PreconditionFailed: Problem(412, "precondition-failed", "The route is in another state"),
    errors.EpochMismatch: Problem(412, "epoch-mismatch", "The revision is of another history"),
    errors.HistoryGone: Problem(410, "history-gone", "These changes cannot be continued from"),
    errors.SourceUnavailable: Problem(503, "source-unavailable", "The database cannot answer now"),
    errors.Busy: Problem(503, "busy", "Too much is going on"),
    errors.Overloaded: Problem(503, "overloaded", "Too much is going on"),
    errors.TooManyConnections: Problem(503, "too-many-connections", "Too many clients are connected"),
    errors.TooManyOfAddress: Problem(
        429, "too-many-connections-of-address", "Too many clients of one address are connected"
    ),
    errors.TooManyWatchers: Problem(503, "too-many-watchers", "Too many wait for changes here"),
    errors.NotYetReached: Problem(503, "not-yet-reached", "The revision does not exist yet"),
    errors.StorageReadOnly: Problem(503, "storage-read-only", "The database takes no writes now"),
    errors.IssuerUnavailable: Problem(503, "issuer-unavailable", "The token cannot be checked now"),
    errors.StorageFull: Problem(503, "storage-full", "The database's disk is full"),
    errors.OutcomeUnknown: Problem(503, "outcome-unknown", "The change may or may not have been made"),
}

# Kinds of InvalidInput and RequestRefused whose status is not 422: told by the code of the first field.
STATUS_OF_CODE = {
    "invalid-name": 400,
    "invalid-revision": 400,
    "invalid-tag": 400,
    "invalid-idempotency-key": 400,
    "invalid-reason": 400,
    "missing-reason": 400,
    "invalid-page-token": 400,
    "missing-parameter": 400,
    "doubled-parameter": 400,
    "unknown-parameter": 400,
    "invalid-parameter": 400,
    "malformed-json": 400,
    "duplicate-key": 400,
    "number-out-of-range": 400,
    "nested-too-deep": 400,
}
_RETRIED = (
    errors.SourceUnavailable,
    errors.TooManyConnections,
    errors.TooManyOfAddress,
    errors.RequestUnderWay,
)
_MAX_INSTANCE = 256
INTERNAL = Problem(500, "internal-error", "Something went wrong here")


def problem_of(error: TrafficManagerError) -> Problem:
    """Return the kind of *error*: its own, or that of the nearest class above it."""
    if isinstance(error, errors.BatchFailed):
        return problem_of(error.cause)
    if type(error) is errors.RequestRefused:
        return Problem(error.status, error.code, "The request was refused")
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return _by_field(error, PROBLEMS[kind])
    return INTERNAL


def _by_field(error: TrafficManagerError, problem: Problem) -> Problem:
    if not isinstance(error, errors.InvalidInput):
        return problem
    worst = max(error.problems, key=_status_of)
    return Problem(_status_of(worst), worst.code, problem.title)


def _status_of(problem: FieldProblem) -> int:
    return STATUS_OF_CODE.get(problem.code, 422)


def render(error: TrafficManagerError, instance: str, correlation_id: str) -> tuple[int, Headers, bytes]:
    """Return the answer to *error*: status, headers without the general ones, body."""
    problem = problem_of(error)
    cause = error.cause if isinstance(error, errors.BatchFailed) else error
    document = (
        _document(problem, str(cause), instance, correlation_id) | _extensions(error) | _extensions(cause)
    )
    headers: Headers = [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store")]
    if isinstance(cause, errors.Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(cause, _RETRIED):
        headers.append((b"retry-after", _retry_after(cause.retry_after_s, correlation_id)))
    if isinstance(cause, errors.RateLimited):
        headers += _limit_headers(cause)
    if error.as_of is not None:
        headers.append((b"tm-revision", str(error.as_of).encode()))
    return problem.status, headers, orjson.dumps(document)


def _limit_headers(error: errors.RateLimited) -> Headers:
    """Return what tells of the limit: draft-ietf-httpapi-ratelimit-headers, and what clients read before it."""
    wait, quota = b"%d" % error.retry_after_s, b"%d" % error.quota
    policy = error.policy.encode()
    return [
        (b"retry-after", wait),
        (b"ratelimit-policy", b'"%b";q=%b;w=%d' % (policy, quota, error.window_s)),
        (b"ratelimit", b'"%b";r=0;t=%b' % (policy, wait)),
        (b"x-ratelimit-limit", quota),
        (b"x-ratelimit-remaining", b"0"),
        (b"x-ratelimit-reset", wait),
    ]


def _retry_after(seconds: range, correlation_id: str) -> bytes:
    """Return one of *seconds*, a different one for each request; the same again for the same."""
    return b"%d" % seconds[crc32(correlation_id.encode()) % len(seconds)]


def render_internal(instance: str, correlation_id: str) -> tuple[int, Headers, bytes]:
    """Return the answer to a bug: it shows nothing but the correlation id to look for in the log."""
    detail = "look for the correlation id in the server's log"
    document = _document(INTERNAL, detail, instance, correlation_id)
    return 500, [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store")], orjson.dumps(document)


def instance_of(path: str) -> str:
    """Return *path*, which somebody sent, as a URI reference (RFC 9457), cut where it is long."""
    path = path[:_MAX_INSTANCE]
    return path if path.isascii() and path.isprintable() else quote(path)


def _document(problem: Problem, detail: str, instance: str, correlation_id: str) -> JsonObject:
    return {
        "type": TYPE_PREFIX + problem.code,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": instance,
        "correlation_id": correlation_id,
    }


def _extensions(error: TrafficManagerError) -> JsonObject:
    match error:
        case errors.InvalidInput():
            return {"errors": [_field(p) for p in error.problems]}
        case errors.RouteConflict() | errors.PreconditionFailed():
            return {"current": route_json(error.current) if error.current else None}
        case errors.QuotaExceeded():
            found = FieldProblem(
                "tenant", f"too-many-{error.things}", f"may have {error.quota} {error.things}"
            )
            return {"errors": [_field(found)]}
        case errors.HistoryGone():
            return {"head": error.head}
        case errors.BatchFailed():
            return {"index": error.index}
        case errors.KeyIssuedBefore():
            return {"key_id": error.key_id}
        case errors.OutcomeUnknown():
            return {"outcome": "unknown"}
        case _:
            return {}


def _field(problem: FieldProblem) -> JsonObject:
    found = {"field": problem.field, "code": problem.code, "detail": problem.detail}
    return found | ({"pointer": problem.pointer} if problem.pointer else {})


def route_json(route: Route) -> JsonObject:
    """Return *route* as the API shows it."""
    tenant, service, env, version = route.key
    return {
        "tenant": tenant,
        "service": service,
        "env": env,
        "version": version,
        "url": route.url,
        "is_active": route.is_active,
        "revision": route.revision,
        "created_at": rfc3339(route.created_at),
        "updated_at": rfc3339(route.updated_at),
    }
