"""The answer to a resolve, rendered in one place for the lane and for the documented route."""

from __future__ import annotations

import orjson

from traffic_manager.api.problems import Headers, render
from traffic_manager.errors import FieldProblem, InvalidInput, RouteNotFound
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import Entry
from traffic_manager.routing.resolver import Answer

RESOLVE_PATH = "/api/v1/routes/resolve"
JSON = (b"content-type", b"application/json")
# Caches in between must ask us each time; an ETag makes that cheap.
PRIVATE = (b"cache-control", b"private, no-cache")


def render_answer(
    answer: Answer, key: RouteKey, if_none_match: bytes | None, correlation_id: str
) -> tuple[int, Headers, bytes]:
    """Return status, headers and body: 200, 304, or 404 where there is no active route."""
    general = general_headers(answer.epoch8, answer.as_of, answer.stale_age_s)
    if answer.entry is None:
        headers, body = missing(key, correlation_id)
        return 404, [*general, *headers, _length(body)], body
    tag = tag_of(answer.epoch8, answer.entry)
    if if_none_match is not None and matches(if_none_match, tag):
        return 304, [*general, *unchanged(tag)], b""
    headers, body = found(key, answer.entry, tag)
    return 200, [*general, *headers, _length(body)], body


# The parts of an answer, for the lane, which keeps those that depend on the route alone.


def general_headers(epoch8: str, as_of: int, stale_age_s: int | None) -> Headers:
    """Return the headers that say when the answer was true: the same for every route at one moment."""
    return [(b"tm-revision", f"{epoch8}.{as_of}".encode()), *freshness(stale_age_s)]


def freshness(stale_age_s: int | None) -> Headers:
    """Return the flags of an answer from memory; none while the source is in reach."""
    if stale_age_s is None:
        return []
    return [(b"tm-stale", b"?1"), (b"age", str(stale_age_s).encode())]


def tag_of(epoch8: str, entry: Entry) -> bytes:
    """Return the ETag."""
    return f'"{epoch8}.{entry.revision}"'.encode()


def found(key: RouteKey, entry: Entry, tag: bytes) -> tuple[Headers, bytes]:
    """Return headers and body for an active route."""
    body = orjson.dumps({**key._asdict(), "url": entry.url, "revision": entry.revision})
    return [JSON, *unchanged(tag)], body


def unchanged(tag: bytes) -> Headers:
    """Return the headers for a route that the caller has already."""
    return [(b"etag", tag), PRIVATE]


def missing(key: RouteKey, correlation_id: str) -> tuple[Headers, bytes]:
    """Return headers and body where there is no active route."""
    _, headers, body = render(RouteNotFound(key), RESOLVE_PATH, correlation_id)
    return headers, body


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


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
