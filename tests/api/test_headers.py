"""Every answer, whatever it says and wherever it was made, has the headers that keep browsers from misusing it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.access.issue import REQUIRED
from tests.api.calls import ROUTES, URL, a_fresh_key, created
from tests.api.test_lane import a_request, target_of
from tests.api.twins import Twins, the_twins
from tests.node import Node, path_of

STREAM = "/api/v1/changes/stream"
# What a browser is told by other origins' pages being let in.
CROSS_ORIGIN = re.compile(r"access-control-|cross-origin-|timing-allow-origin")
ORIGINS = [
    "null", "*", "", "http://localhost:8000", "http://127.0.0.1", "https://evil.example.com", "http://localhost",
    "https://localhost:8000.evil.example.com", "https://evil.example.com:8000", "file://", "data:", "moz-extension://a",
    "http://localhost:8000, https://evil.example.com", "HTTP://LOCALHOST:8000", "https://a%2eexample.com", "http://[::1]",
    "https://sub.localhost", "http://localhost.", "chrome-extension://a", "https://evil.example.com/http://localhost",
]  # fmt: skip


def _is_protected(answer: httpx2.Response) -> None:
    asked = f"{answer.request.method} {answer.request.url.path}: {answer.status_code}"
    names = [name.lower() for name in answer.headers]
    assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"], asked
    assert answer.headers.get_list("Cache-Control", split_commas=False) in _may_keep(answer), asked
    assert "server" not in names, asked
    assert "x-powered-by" not in names, asked
    assert [name for name in names if CROSS_ORIGIN.match(name)] == [], asked
    # Nobody is sent to a URL that somebody stored.
    assert answer.status_code < 300 or answer.status_code == 304 or answer.status_code >= 400, asked
    assert "location" not in names or answer.headers["Location"].startswith("/api/v1/"), asked


def _may_keep(answer: httpx2.Response) -> list[list[str]]:
    """Return what may stand in Cache-Control: nobody else keeps an answer, and nobody shows it unasked."""
    allowed = [["no-store"], ["private, no-cache"]]
    return [[], *allowed] if answer.status_code == 204 else allowed


def _ask_everything(client: httpx2.Client) -> Iterator[httpx2.Response]:
    """Yield answers of all calls, as they are in the OpenAPI document, to good and bad requests."""
    document = client.get("/openapi.json")
    yield document
    if document.status_code != 200:
        return
    key = created(client)
    for template, calls in document.json()["paths"].items():
        path = template
        for name, value in {**key, "key_id": "nosuchkey000"}.items():
            path = path.replace(f"{{{name}}}", value)
        if template != STREAM:
            for method in (*calls, "head", "trace", "options"):
                for headers in ({}, {"If-None-Match": "*"}, {"TM-Min-Revision": "x"}):
                    yield client.request(method, path, headers=headers)
                yield client.request(method, path, json={"url": URL})
                yield client.request(method, path, json={"url": URL}, headers={"If-Match": '"x"'})
                yield client.request(method, path, params={"x": "1"})


def test_every_call_answers_with_them_whatever_it_says(sqlite_stack: Node) -> None:
    with sqlite_stack.client() as client:
        found = list(_ask_everything(client))
    for answer in found:
        _is_protected(answer)
    assert {answer.status_code for answer in found} >= {200, 304, 400, 404, 405, 412, 415, 422}


def test_so_do_streams_writes_and_what_no_call_takes(sqlite_stack: Node) -> None:
    key = a_fresh_key()
    with sqlite_stack.client() as client:
        with client.stream("GET", STREAM) as stream:
            _is_protected(stream)
        for answer, status in (
            (client.post(ROUTES, json={**key, "url": URL}), 201),
            (client.post(ROUTES, json={**key, "url": f"{URL}/other"}), 409),
            (client.get(f"{ROUTES}/resolve", params=key), 200),
            (client.get(f"{ROUTES}/resolve", params=key, headers={"Cache-Control": "no-cache"}), 200),
            (client.delete(path_of(key)), 204),
            (client.post(ROUTES, content=b" " * 20_000, headers={"Content-Type": "application/json"}), 413),
            (client.get("/nowhere"), 404),
            (client.get("/" + "a" * 9000), 414),
            (client.get("/health", headers={f"x-{n}": "a" for n in range(80)}), 431),
        ):
            assert answer.status_code == status
            _is_protected(answer)


def test_so_do_refusals_of_strangers(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Node(tmp_path_factory.mktemp("guarded"), REQUIRED).start() as node, node.client() as client:
        for path in (
            "/health",
            "/metrics",
            "/docs",
            "/openapi.json",
            f"{ROUTES}/resolve",
            STREAM,
            "/nowhere",
        ):
            answer = client.get(path)
            assert answer.status_code == (200 if path == "/health" else 401)
            _is_protected(answer)


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    """The lanes, and what they must not be told from."""
    with the_twins() as both:
        yield both


@pytest.mark.parametrize("version", ["v2", "nobody"])
def test_the_lane_answers_with_them_as_the_documented_route_does(twins: Twins, version: str) -> None:
    fast, documented = twins.answers(a_request(target_of(version=version)))
    assert fast == documented
    assert fast.count(b"\r\nx-content-type-options: nosniff\r\n") == 1


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_other_origin_is_let_in(sqlite_api: httpx2.Client, origin: str) -> None:
    key = created(sqlite_api)
    asking = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    for answer, status in (
        (sqlite_api.get(f"{ROUTES}/resolve", params=key, headers={"Origin": origin}), 200),
        (sqlite_api.get(path_of(key), headers={"Origin": origin}), 200),
        (sqlite_api.request("OPTIONS", path_of(key), headers=asking), 405),
        (sqlite_api.request("OPTIONS", "/nowhere", headers=asking), 404),
    ):
        assert answer.status_code == status
        assert [name for name in answer.headers if CROSS_ORIGIN.match(name.lower())] == []


def test_document_page_runs_its_own_scripts_alone_and_stands_in_no_frame(sqlite_stack: Node) -> None:
    headers = httpx2.get(f"{sqlite_stack.url}/docs").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])
    assert headers["Referrer-Policy"] == "no-referrer"


def test_wrong_method_for_the_description_is_told_the_right_ones(sqlite_api: httpx2.Client) -> None:
    refused = sqlite_api.post("/openapi.json")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
