"""HEAD answers with the head of GET, everywhere."""

from __future__ import annotations

import re
import socket

import httpx2
import pytest

from tests.api.calls import CHANGES, ROUTES, created
from tests.api.twins import TIMEOUT_S
from tests.node import Node, path_of

CHANGING = {"date", "x-correlation-id", "content-length"}


@pytest.fixture(scope="module")
def plain_api(sqlite_stack: Node) -> httpx2.Client:
    """A client that does not look HEAD up in the OpenAPI document, which speaks of it once for all calls."""
    return sqlite_stack.client()


def paths(key: dict[str, str]) -> list[str]:
    """Return a path of every GET."""
    query = "&".join(f"{name}={value}" for name, value in key.items())
    route = path_of(key)
    return [
        f"{ROUTES}/resolve?{query}", f"{ROUTES}/resolve?{query}x", f"{ROUTES}/resolve?x=1", f"{ROUTES}?{query}",
        route, f"{route}/history", f"{CHANGES}?limit=1", "/health", "/health/live", "/health/ready", "/metrics",
        "/openapi.json", "/docs", "/nothing",
    ]  # fmt: skip


def test_head_answers_with_the_head_of_get(plain_api: httpx2.Client, sqlite_api: httpx2.Client) -> None:
    for path in paths(created(sqlite_api)):
        head, whole = plain_api.head(path), plain_api.get(path)
        assert head.content == b"", path
        assert head.status_code == whole.status_code, path
        assert list(_stable(head)) == list(_stable(whole)), path
        if path != "/metrics":  # it grows with each request
            assert head.headers["content-length"] == whole.headers["content-length"], path


def _stable(response: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in CHANGING}


def test_head_of_a_stream_ends_after_the_head(sqlite_stack: Node) -> None:
    with socket.create_connection(("127.0.0.1", sqlite_stack.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"HEAD {CHANGES}/stream HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_head_is_counted_as_such_at_its_template(plain_api: httpx2.Client, sqlite_api: httpx2.Client) -> None:
    endpoint = re.escape('endpoint="/api/v1/routes/resolve",method="HEAD",status_code="404"')
    sample = re.compile(rf"^api_requests_total{{{endpoint}}} (\S+)$", re.MULTILINE)
    query = {"tenant": "nobody", "service": "s", "env": "e", "version": "v"}
    before = sample.search(plain_api.get("/metrics").text)
    plain_api.head(f"{ROUTES}/resolve", params=query)
    after = sample.search(plain_api.get("/metrics").text)
    assert after
    assert float(after[1]) == (float(before[1]) if before else 0.0) + 1


@pytest.mark.parametrize(("path", "allowed"), [(f"{ROUTES}/activate", "POST"), (ROUTES, "GET, HEAD, POST")])
def test_allow_names_head_where_there_is_a_get(plain_api: httpx2.Client, path: str, allowed: str) -> None:
    method = "HEAD" if allowed == "POST" else "PATCH"
    answer = plain_api.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
