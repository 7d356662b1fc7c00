"""The answer to a resolve, rendered in one place for the lane and for the documented route."""

from __future__ import annotations

import orjson

from traffic_manager.api.problems import Headers, render
from traffic_manager.errors import FieldProblem, InvalidInput, RouteNotFound
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.resolver import Answer

RESOLVE_PATH = "/api/v1/routes/resolve"
JSON = (b"content-type", b"application/json")
# Caches in between must ask us each time; an ETag makes that cheap.
PRIVATE = (b"cache-control", b"private, no-cache")


def render_answer(
    answer: Answer, key: RouteKey, if_none_match: bytes | None, correlation_id: str
) -> tuple[int, Headers, bytes]:
    """Return status, headers and body: 200, 304, or 404 where there is no active route."""
    if answer.entry is None:
        not_found = RouteNotFound(key)
        not_found.as_of = Position(answer.epoch8, answer.as_of)
        status, headers, body = render(not_found, RESOLVE_PATH, correlation_id)
        return status, headers + freshness(answer.stale_age_s), body
    url, revision = answer.entry
    tag = f'"{answer.epoch8}.{revision}"'.encode()
    headers = [(b"etag", tag), (b"tm-revision", f"{answer.epoch8}.{answer.as_of}".encode()), PRIVATE]
    headers += freshness(answer.stale_age_s)
    if if_none_match is not None and matches(if_none_match, tag):
        return 304, headers, b""
    tenant, service, env, version = key
    body = orjson.dumps(
        {
            "tenant": tenant,
            "service": service,
            "env": env,
            "version": version,
            "url": url,
            "revision": revision,
        }
    )
    return 200, [JSON, *headers], body


def freshness(stale_age_s: int | None) -> Headers:
    """Return the flags of an answer from memory; none while the source is in reach."""
    if stale_age_s is None:
        return []
    return [(b"tm-stale", b"?1"), (b"age", str(stale_age_s).encode())]


def matches(if_none_match: bytes, tag: bytes) -> bool:
    """Return whether the header's list holds *tag* (weak comparison, RFC 9110) or is `*`."""
    wanted = [item.strip().removeprefix(b"W/") for item in if_none_match.split(b",")]
    return tag in wanted or b"*" in wanted


def tags_of(header: str | None, field: str) -> frozenset[str] | None:
    """Return the opaque parts of the strong tags of an If-Match or If-None-Match header, `*` as itself, None
    without the header. Weak tags never match. Raises InvalidInput if it is no list of tags."""
    if header is None:
        return None
    if header.strip() == "*":
        return frozenset("*")
    tags = set()
    for item in header.split(","):
        tag = item.strip()
        is_weak = tag.startswith("W/")
        quoted = tag.removeprefix("W/")
        if len(quoted) < 2 or quoted[0] != '"' or quoted[-1] != '"' or '"' in quoted[1:-1]:
            raise InvalidInput(
                FieldProblem(field, "invalid-tag", 'must be * or a list of quoted tags: "a.1"')
            )
        if not is_weak:
            tags.add(quoted[1:-1])
    return frozenset(tags)
