"""Requests that no client library sends, byte by byte. Ids such as A12 are the rows of the table of bad input."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

import httpx2
import orjson
import pytest

from tests.api.calls import CHANGES, ROUTES, URL, a_fresh_key, created, head_of
from tests.api.processes import memory_mb_of
from tests.node import Json, Node, a_key, wait_until

_TIMEOUT_S = 10.0
_CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"


@dataclass(frozen=True)
class Answer:
    """One answer, as it came."""

    status: int
    head: str
    body: bytes

    @property
    def document(self) -> Json:
        """The problem document."""
        found: Json = orjson.loads(self.body)
        return found


def _connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), timeout=_TIMEOUT_S)


def _received(connection: socket.socket) -> Answer:
    """Return what comes until the server closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass  # it closed with some of ours unread, after its answer
    head, _, body = received.partition(b"\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1, received[:500]
    return Answer(int(head.split(b" ", 2)[1]), head.decode("latin-1"), body)


def _ask(node: Node, request: bytes) -> Answer:
    with _connect(node) as connection:
        connection.sendall(request)
        return _received(connection)


def _get(node: Node, target: bytes) -> Answer:
    return _ask(node, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def _is_problem(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, answer
    assert "content-type: application/problem+json" in answer.head
    assert len(answer.body) < 4096


QUERY = b"tenant=%b&service=%b&env=%b&version=%b"


def _query(key: dict[str, str]) -> bytes:
    return QUERY % tuple(key[name].encode() for name in ("tenant", "service", "env", "version"))


@pytest.fixture
def key(sqlite_api: httpx2.Client) -> dict[str, str]:
    """A route that exists."""
    return created(sqlite_api)


class TestTargets:
    @pytest.mark.parametrize(
        "slash", [b"%2F", b"%2f", b"%252F", b"%5C", b"%00", b"%0a", b"%2e%2e", b"%C0%AF", b"%", b"%zz"]
    )
    def test_escape_in_a_name_is_400_or_404_a12(
        self, sqlite_stack: Node, key: dict[str, str], slash: bytes
    ) -> None:
        target = (
            f"{ROUTES}/{key['tenant']}".encode()
            + slash
            + f"{key['service']}/{key['env']}/{key['version']}".encode()
        )
        one_more = f"{ROUTES}/{key['tenant']}/{key['service']}/{key['env']}/{key['version']}".encode() + slash
        for given in (target, one_more):
            _is_problem(_get(sqlite_stack, given), 400, 404)

    @pytest.mark.parametrize(
        "path",
        [
            b"//api/v1/routes", b"/./api/v1/routes", b"/api/../api/v1/routes", b"/api/v1/routes/",
            b"/api/v1/routes;a=b", b"/api/v1//routes", b"/API/V1/routes", b"/api/v1/routes%3Ftenant=a",
            b"/api/v1/routes/%2e%2e/routes", b"/api%2fv1/routes", b"/%", b"/%ff",
            b"/%68ealth", b"/health%2flive", b"/%6Detrics", b"/api/v1/changes%2Fstream", b"/%61pi/v1/changes/stream",
            b"/openapi%2Ejson", b"/api/v%31/keys", b"/api/v1/%77hoami",
        ],
    )  # fmt: skip
    def test_path_that_is_almost_ours_is_404_a12(self, sqlite_stack: Node, path: bytes) -> None:
        _is_problem(_get(sqlite_stack, path), 404)

    def test_a_name_may_be_escaped_as_clients_do_it(self, sqlite_stack: Node, key: dict[str, str]) -> None:
        target = "/".join([ROUTES, *key.values()]).encode()
        for more in (b"%2Bx", b"%7Ex"):
            assert _get(sqlite_stack, target + more).document["type"].endswith(":route-not-found")

    def test_absolute_form_is_answered_as_the_path_alone_a12(
        self, sqlite_stack: Node, key: dict[str, str]
    ) -> None:
        """RFC 9112, 3.2.2: a server MUST accept it. The host in it is not looked at."""
        path = f"{ROUTES}/resolve?".encode() + _query(key)
        assert (
            _get(sqlite_stack, b"http://elsewhere.example.com" + path).body == _get(sqlite_stack, path).body
        )
        _is_problem(_get(sqlite_stack, b"http://elsewhere.example.com/api/v1/secrets"), 404)

    @pytest.mark.parametrize("target", [b"*", b"api/v1/routes", b"/api/v1/routes\xc3\xa9", b"/a b", b""])
    def test_target_that_is_none_is_400_or_404_a12(self, sqlite_stack: Node, target: bytes) -> None:
        assert _get(sqlite_stack, target).status in (400, 404)


class TestQueries:
    @pytest.mark.parametrize("path", ["/resolve", ""])
    @pytest.mark.parametrize("name", [b"tenant", b"version", b"%74enant"])
    def test_doubled_parameter_is_400_and_named_a13(
        self, sqlite_stack: Node, key: dict[str, str], path: str, name: bytes
    ) -> None:
        query = _query(key) + b"&" + name + b"=other"
        answer = _get(sqlite_stack, f"{ROUTES}{path}?".encode() + query)
        _is_problem(answer, 400)
        assert answer.document["errors"][0]["code"] == "doubled-parameter"
        assert answer.document["errors"][0]["field"] == name.decode().replace("%74", "t")

    @pytest.mark.parametrize(
        "path", [f"{ROUTES}/resolve", ROUTES, CHANGES, f"{ROUTES}/a/b/c/d", f"{ROUTES}/a/b/c/d/history"]
    )
    @pytest.mark.parametrize(
        ("extra", "field"),
        [
            (b"x=1", "x"), (b"Tenant=a", "Tenant"), (b"=", ""), (b"%00=1", "query"), (b"y" * 500, "y" * 64),
            (b"tenant[]=a", "tenant[]"),
        ],
    )  # fmt: skip
    def test_unknown_parameter_is_400_and_named_a13(
        self, sqlite_stack: Node, key: dict[str, str], path: str, extra: bytes, field: str
    ) -> None:
        names = b"" if "/a/b" in path else _query(key) + b"&"
        answer = _get(sqlite_stack, f"{path}?".encode() + names + extra)
        _is_problem(answer, 400)
        assert answer.document["errors"][0]["code"] == "unknown-parameter"
        assert answer.document["errors"][0]["field"] == field

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            (b"&".join(b"a=%d" % n for n in range(40)), 400),
            (b"&" * 3000, 400),
            (b"tenant=" + b"a" * 4100, 400),
            (b"tenant=%ff", 400),
            (b"tenant=%zz", 400),
            (b"tenant", 400),
            (b"&".join(b"a=%d" % n for n in range(1500)), 414),
            (b"tenant=" + b"a" * 8200, 414),
        ],
        ids=["40-parameters", "only-ampersands", "over-4-KiB", "not-UTF-8", "no-escape", "no-value",
             "1500-parameters", "over-8-KiB"],
    )  # fmt: skip
    def test_query_of_strange_form_a13(self, sqlite_stack: Node, query: bytes, status: int) -> None:
        answer = _get(sqlite_stack, f"{ROUTES}?".encode() + query)
        assert answer.status == status
        assert len(answer.body) < 4096

    def test_10000_parameters_are_more_than_a_head_may_hold_a13(self, sqlite_stack: Node) -> None:
        query = b"&".join(b"a=%d" % number for number in range(10000))
        assert _get(sqlite_stack, f"{ROUTES}?".encode() + query).status in (400, 414)

    @pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"GET"])
    def test_long_path_is_414_a13(self, sqlite_stack: Node, method: bytes) -> None:
        path = f"{ROUTES}/{'a' * 8200}/b/c/d".encode()
        answer = _ask(
            sqlite_stack, method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        _is_problem(answer, 414)


def _post(path: str, *headers: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1".encode(),
        b"Host: localhost",
        b"Content-Type: application/json",
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class TestBodies:
    def test_announced_gigabyte_is_refused_before_it_comes_a05(self, sqlite_stack: Node) -> None:
        answer = _ask(sqlite_stack, _post(ROUTES, b"Content-Length: 1000000000"))
        _is_problem(answer, 413)
        assert "connection: close" in answer.head

    def test_client_that_waits_to_be_asked_for_its_gigabyte_is_refused_at_once_a34(
        self, sqlite_stack: Node
    ) -> None:
        answer = _ask(sqlite_stack, _post(ROUTES, b"Content-Length: 1000000000", b"Expect: 100-continue"))
        _is_problem(answer, 413)
        assert "connection: close" in answer.head

    @pytest.mark.parametrize("path", [ROUTES, f"{ROUTES}/batch"])
    def test_endless_chunked_body_is_refused_at_the_limit_and_kept_nowhere_a05(
        self, sqlite_stack: Node, path: str
    ) -> None:
        before = memory_mb_of(sqlite_stack)
        with _connect(sqlite_stack) as connection:
            connection.sendall(_post(path, b"Transfer-Encoding: chunked"))
            sent = 0
            try:
                while sent < 1 << 30:
                    sent += connection.send(_CHUNK)
            except OSError:
                pass  # refused
            answer = _received(connection)
        assert (answer.status, "connection: close" in answer.head) == (413, True)
        assert sent < 64 << 20
        assert memory_mb_of(sqlite_stack) - before < 16

    def test_gigabyte_to_a_call_without_body_takes_no_memory_a05(self, sqlite_stack: Node) -> None:
        before = memory_mb_of(sqlite_stack)
        with _connect(sqlite_stack) as connection:
            connection.sendall(_post("/health", b"Transfer-Encoding: chunked", b"Connection: close"))
            sent = 0
            try:
                while sent < 1 << 30:
                    sent += connection.send(_CHUNK)
            except OSError:
                pass  # answered and closed
        assert sent < 64 << 20
        assert memory_mb_of(sqlite_stack) - before < 16

    def test_body_shorter_than_announced_writes_nothing_and_is_no_bug_a05(
        self, sqlite_stack: Node, sqlite_api: httpx2.Client
    ) -> None:
        head = head_of(sqlite_api)
        refused = 'api_requests_total{endpoint="/api/v1/routes",method="POST",status_code="400"}'
        before = _metric(sqlite_api, refused)
        body = orjson.dumps({**a_fresh_key(), "url": URL})
        with _connect(sqlite_stack) as connection:
            connection.sendall(_post(ROUTES, b"Content-Length: %d" % (len(body) + 1)) + body)
        wait_until(lambda: _metric(sqlite_api, refused) == before + 1, what="the refusal")
        assert head_of(sqlite_api) == head
        assert "unhandled_error" not in sqlite_stack.log()

    def test_body_longer_than_announced_is_cut_and_the_rest_is_no_request_a05(
        self, sqlite_stack: Node, sqlite_api: httpx2.Client
    ) -> None:
        head = head_of(sqlite_api)
        body = orjson.dumps({**a_fresh_key(), "url": URL})
        request = _post(ROUTES, b"Content-Length: %d" % (len(body) - 1)) + body
        with _connect(sqlite_stack) as connection:
            connection.sendall(request)
            received = b""
            while part := connection.recv(65536):
                received += part
        assert set(re.findall(rb"HTTP/1.1 (\d+)", received)) == {b"400"}
        assert head_of(sqlite_api) == head

    @pytest.mark.parametrize(
        "headers",
        [
            [b"Content-Length: +5"],
            [b"Content-Length: -5"],
            [b"Content-Length: 5x"],
            [b"Content-Length: 99999999999999999999999"],
            [b"Content-Length: 5", b"Content-Length: 6"],
            [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked, identity"],
        ],
        ids=lambda headers: b",".join(headers).decode(),
    )
    def test_length_that_two_servers_could_read_differently_is_400_a05(
        self, sqlite_stack: Node, headers: list[bytes]
    ) -> None:
        answer = _ask(sqlite_stack, _post(ROUTES, *headers) + b"hello")
        assert answer.status in (400, 413)

    def test_body_of_a_get_is_not_read_a05(self, sqlite_stack: Node, key: dict[str, str]) -> None:
        head = f"GET {ROUTES}/resolve?".encode() + _query(key) + b" HTTP/1.1\r\nHost: localhost\r\n"
        answer = _ask(sqlite_stack, head + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        assert answer.status == 200

    def test_chunked_body_is_taken_like_any_other(self, sqlite_stack: Node) -> None:
        body = orjson.dumps({**a_fresh_key(), "url": URL})
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
        request = _post(ROUTES, b"Transfer-Encoding: chunked", b"Connection: close") + chunks + b"0\r\n\r\n"
        assert _ask(sqlite_stack, request).status == 201


class TestHeaders:
    @pytest.mark.parametrize(
        "given", [b"a\tb", b"", b"<script>", b"a" * 65, b"a, b", b"\xff\xfe", b"a%0d%0aSet-Cookie:x=1"]
    )
    def test_strange_correlation_id_is_not_repeated(
        self, sqlite_stack: Node, key: dict[str, str], given: bytes
    ) -> None:
        target = f"GET {ROUTES}/resolve?".encode() + _query(key)
        request = target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Correlation-ID: "
        answer = _ask(sqlite_stack, request + given + b"\r\n\r\n")
        found = re.findall(r"x-correlation-id: (.*)", answer.head)
        assert len(found) == 1
        assert re.fullmatch(r"[0-9a-f]{24}", found[0].strip())

    def test_two_correlation_ids_are_none(self, sqlite_stack: Node) -> None:
        both = b"X-Correlation-ID: a\r\nX-Correlation-ID: b\r\n"
        answer = _ask(
            sqlite_stack, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + both + b"\r\n"
        )
        assert len(re.findall(r"x-correlation-id: [0-9a-f]{24}", answer.head)) == 1

    def test_two_if_match_headers_are_one_list_a40(
        self, sqlite_stack: Node, sqlite_api: httpx2.Client
    ) -> None:
        key = created(sqlite_api)
        tag = sqlite_api.get(f"{ROUTES}/{'/'.join(key.values())}").headers["ETag"].encode()
        target = f"DELETE {ROUTES}/{'/'.join(key.values())} HTTP/1.1".encode()
        headers = b'\r\nHost: localhost\r\nConnection: close\r\nIf-Match: "x"\r\nIf-Match: ' + tag
        assert _ask(sqlite_stack, target + headers + b"\r\n\r\n").status == 204

    def test_second_if_none_match_is_not_overlooked_a40(
        self, sqlite_stack: Node, sqlite_api: httpx2.Client
    ) -> None:
        key = created(sqlite_api)
        target = f"DELETE {ROUTES}/{'/'.join(key.values())} HTTP/1.1".encode()
        headers = b'\r\nHost: localhost\r\nConnection: close\r\nIf-None-Match: "x"\r\nIf-None-Match: *'
        assert _ask(sqlite_stack, target + headers + b"\r\n\r\n").status == 400


def test_stored_url_is_never_asked_for_a26(sqlite_stack: Node, sqlite_api: httpx2.Client) -> None:
    """Nothing that a caller does makes the server connect to what a route points to."""
    with socket.create_server(("127.0.0.1", 0)) as pointed_to:
        pointed_to.settimeout(0)
        key = created(sqlite_api)
        path = f"{ROUTES}/{'/'.join(key.values())}"
        url = f"http://127.0.0.1:{pointed_to.getsockname()[1]}/"
        assert sqlite_api.put(path, json={"url": url}).status_code == 200
        for target in (path, f"{path}/history", ROUTES, CHANGES):
            assert sqlite_api.get(target).status_code == 200
        found = sqlite_api.get(f"{ROUTES}/resolve", params=key, headers={"Cache-Control": "no-cache"})
        assert found.json()["url"] == url
        sqlite_api.post(f"{ROUTES}/deactivate", json=key)
        sqlite_api.delete(path)
        with pytest.raises(BlockingIOError):
            pointed_to.accept()


def _metric(api: httpx2.Client, sample: str) -> float:
    for line in api.get("/metrics").text.splitlines():
        if line.startswith(f"{sample} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_server_lived_through_it_all(sqlite_stack: Node, sqlite_api: httpx2.Client) -> None:
    assert sqlite_api.get(f"{ROUTES}/resolve", params=a_key(tenant="nobody")).status_code == 404
    assert sqlite_stack.is_running()
