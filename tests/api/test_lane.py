"""The fast way for resolves gives the answer of the documented route, byte for byte.

Each request is sent twice: as it is, and with a `Cache-Control` that asks for nothing but keeps it out of the lane.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.calls import ROUTES, created, deactivated
from tests.node import Json, Node, a_key, path_of
from traffic_manager.api.app import build_app
from traffic_manager.api.context import Parts
from traffic_manager.config.settings import load_settings
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Entry, Head, Table
from traffic_manager.routing.resolver import Resolver

AROUND = (b"Cache-Control", b"max-age=60")
NAMES = ("tenant", "service", "env", "version")
Headers = list[tuple[bytes, bytes]]

WORDS = st.sampled_from(
    [
        *(
            "nobody",
            "",
            "a b",
            "a+b",
            "a%2Bb",
            "a%20b",
            "%61",
            "a..b",
            "-a",
            "a.",
            "é",
            "%C3%A9",
            "%ff",
            "a/b",
        ),
        *(
            "a%2Fb",
            "n" * 128,
            "n" * 129,
            "~",
            "a~b",
            "a_b",
            "A",
            "a%0a",
            "a%00",
            "a;b",
            "a=b",
            "a%26b",
            "%",
            "a#b",
        ),
    ]
)
EXTRAS = st.sampled_from(
    ["", "", "&", "&x=1", "&tenant=a", "&version=v2", ";", "&=", "&&", "#x", "&Tenant=a"]
)
TAGS = st.sampled_from(["TAG", "W/TAG", '"x", TAG', "TAG,TAG", "*", "", "TAG\xe9", "x"])
IDS = st.sampled_from(["id-1", "A.b_c", "", "a b", "i" * 64, "i" * 65, "\xe9"])


@pytest.fixture(scope="module")
def known(sqlite_api: httpx2.Client) -> dict[str, dict[str, str]]:
    """An active route, an inactive one, and one with all the characters that a name may have."""
    return {
        "active": created(sqlite_api),
        "inactive": deactivated(sqlite_api),
        "strange": created(sqlite_api, service="a.b_c~d-e", version="V2"),
    }


def _answer(node: Node, target: str, headers: Headers) -> bytes:
    lines = [b"GET %b HTTP/1.1" % target.encode("latin-1"), b"Host: localhost", b"Connection: close"]
    lines += [b"%b: %b" % header for header in headers]
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        return connection.makefile("rb").read()


def _comparable(answer: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Return status line, headers and body, without what no two answers share: the time and a made id."""
    # Of 24 hex digits are the ids that the server makes, and no others here.
    without = re.sub(rb"\b[0-9a-f]{24}\b", b"ID", re.sub(rb"date: .*\r\n", b"", answer))
    head, _, body = without.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    return status, sorted(headers), body


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, dict[str, str], list[str], str, list[str], list[str]]:
    """Return which route is meant, names put in place of its own, the order, an extra, tags and ids."""
    route = draw(st.sampled_from(["active", "active", "inactive", "strange"]))
    replaced = draw(st.dictionaries(st.sampled_from(NAMES), WORDS, max_size=2))
    order = draw(st.one_of(st.just(list(NAMES)), st.permutations(NAMES), st.just(list(NAMES[:3]))))
    tags = draw(
        st.lists(
            st.sampled_from(["TAG", "W/TAG", '"x", TAG', "TAG,TAG", "*", "", "TAG\xe9", "x"]), max_size=2
        )
    )
    ids = draw(
        st.lists(st.sampled_from(["id-1", "A.b_c", "", "a b", "i" * 64, "i" * 65, "\xe9"]), max_size=2)
    )
    return route, replaced, list(order), draw(EXTRAS), tags, ids


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=_requests())
def test_any_request_is_answered_as_by_the_documented_route(
    sqlite_stack: Node,
    sqlite_api: httpx2.Client,
    known: dict[str, dict[str, str]],
    request: tuple[str, dict[str, str], list[str], str, list[str], list[str]],
) -> None:
    route, replaced, order, extra, tags, ids = request
    names = {**known[route], **replaced}
    query = "&".join(f"{name}={names[name]}" for name in order) + extra
    if not query.isascii():
        query = query.encode("ascii", "backslashreplace").decode()
    tag = f'"{_tag(sqlite_api, known[route])}"'
    headers: Headers = [(b"If-None-Match", given.replace("TAG", tag).encode("latin-1")) for given in tags]
    headers += [(b"X-Correlation-ID", given.encode("latin-1")) for given in ids]
    fast = _answer(sqlite_stack, f"{ROUTES}/resolve?{query}", headers)
    documented = _answer(sqlite_stack, f"{ROUTES}/resolve?{query}", [*headers, AROUND])
    assert _comparable(fast) == _comparable(documented)


_tags: dict[str, str] = {}


def _tag(api: httpx2.Client, key: dict[str, str]) -> str:
    path = path_of(key)
    if path not in _tags:
        _tags[path] = api.get(path).headers["ETag"].strip('"')
    return _tags[path]


class _Follower:
    """Says how stale the mirror is."""

    def __init__(self) -> None:
        self.age_s: int | None = None

    def stale_age_s(self) -> int | None:
        return self.age_s


@asynccontextmanager
async def _no_lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield


def _app(follower: _Follower) -> Any:  # Any: an ASGI app
    """Return the application over a mirror with one route and nothing behind it."""
    mirror = Mirror(max_routes=10)
    head = Head("ab" * 16, 1, 7)
    entries = {"/".join(a_key().values()): Entry("https://a.example.com", 5)}
    mirror.load(Table(head, b"", entries, [], 0))
    nothing = cast("Any", None)  # none of it may be asked when the mirror knows
    follows = cast("Follower", follower)
    parts = SimpleNamespace(
        settings=load_settings(env_file=None),
        metrics=Metrics(),
        follower=follows,
        mirror=mirror,
        resolver=Resolver(mirror, follows, nothing, nothing, nothing),
    )
    return build_app(cast("Parts", parts), _no_lifespan)


def _answers(app: Any, key: dict[str, str], *headers: tuple[bytes, bytes]) -> list[Json]:
    """Return what the app sends for a resolve."""
    sent: list[Json] = []

    async def send(message: Json) -> None:
        sent.append(message)

    async def receive() -> Json:
        return {"type": "http.request", "body": b"", "more_body": False}

    path = f"{ROUTES}/resolve"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": "&".join(f"{name}={key[name]}" for name in NAMES).encode(),
        "headers": [(b"x-correlation-id", b"same"), *((name.lower(), value) for name, value in headers)],
        "scheme": "http",
        "http_version": "1.1",
        "server": ("localhost", 80),
        "client": ("localhost", 1),
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize("age_s", [None, 0, 1, 86400])
@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("tag", [b'"abababab.5"', b'"abababab.4"'])
def test_stale_answers_are_flagged_alike(age_s: int | None, version: str, tag: bytes) -> None:
    follower = _Follower()
    app = _app(follower)
    follower.age_s = age_s
    key, given_tag = a_key(version=version), (b"if-none-match", tag)
    fast, documented = _answers(app, key, given_tag), _answers(app, key, given_tag, AROUND)
    assert sorted(fast[0]["headers"]) == sorted(documented[0]["headers"])
    assert (fast[0]["status"], fast[1]["body"]) == (documented[0]["status"], documented[1]["body"])
    found = dict(fast[0]["headers"])
    expected = (None, None) if age_s is None else (b"?1", str(age_s).encode())
    assert (found.get(b"tm-stale"), found.get(b"age")) == expected


def test_what_the_mirror_knows_is_answered_without_a_database() -> None:
    """The application above has no database: had the lane or the route asked for one, it would have failed."""
    statuses = [_answers(_app(_Follower()), a_key(version=version))[0]["status"] for version in ("v2", "v3")]
    assert statuses == [200, 404]


def test_plain_resolve_does_not_come_as_far_as_the_documented_route() -> None:
    """Else the comparisons above would compare the route with itself."""
    app = _app(_Follower())
    app._app = None
    assert _answers(app, a_key())[0]["status"] == 200
    with pytest.raises(TypeError):
        _answers(app, a_key(), AROUND)
