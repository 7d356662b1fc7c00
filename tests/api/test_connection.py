"""A connection has limits and deadlines, keeps its answers in order, and ends without loss: with the lane and
without."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import orjson
import pytest
from structlog.contextvars import get_contextvars

from tests.api.test_lane import a_request, target_of
from tests.api.twins import EPOCH, Twin, Twins, all_of, comparable, the_twins
from tests.node import wait_until
from traffic_manager.api import connection as api_connection
from traffic_manager.api import requests as api_requests
from traffic_manager.api.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    Connection,
)
from traffic_manager.monitoring.middleware import RequestMonitoring

ASK = a_request(target_of())
ASK_FASTAPI = a_request(target_of(), ("Cache-Control", "max-age=60"))
LAST = a_request(target_of(), ("Connection", "close"))
POST = b"POST /api/v1/routes HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    """Both kinds of connection."""
    with the_twins() as both:
        yield both


@pytest.fixture(params=["lane", "documented"])
def server(twins: Twins, request: pytest.FixtureRequest) -> Twin:
    """Each of them in turn."""
    twin: Twin = getattr(twins, request.param)
    return twin


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of the answers on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def answers_to(server: Twin, request: bytes) -> bytes:
    """Return all that comes before the server closes; nothing more is sent, nor is our side closed."""
    with server.connect() as connection:
        connection.sendall(request)
        return all_of(connection)


def is_refusal(answer: bytes, status: int, code: str) -> None:
    """Check the last answer."""
    head, _, body = answer[answer.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    head += b"\r\n"
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"\r\ncontent-type: application/problem+json\r\n" in head
    assert head.lower().count(b"\r\nconnection: close") == 1
    problem = orjson.loads(body)
    assert (problem["status"], problem["type"]) == (status, f"urn:traffic-manager:{code}")
    assert f"\r\nx-correlation-id: {problem['correlation_id']}\r\n".encode() in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head


class TestLimits:
    def test_a_target_of_8_kib_is_taken_and_a_longer_one_is_414(self, server: Twin) -> None:
        path = "/" + "a" * (MAX_TARGET_BYTES - 1)
        assert statuses(server.exchange(a_request(path))) == [404]
        is_refusal(answers_to(server, a_request(path + "a")), 414, "target-too-long")

    @pytest.mark.parametrize("target", [target_of(), "/health"])
    def test_64_headers_are_taken_and_one_more_is_431(self, server: Twin, target: str) -> None:
        headers = [(f"x-{number}", "a") for number in range(MAX_HEADERS - 1)]
        assert statuses(server.exchange(a_request(target, *headers))) == [200]
        is_refusal(answers_to(server, a_request(target, *headers, ("x", "a"))), 431, "head-too-large")

    @pytest.mark.parametrize("before", [b"", ASK, ASK * 20])
    def test_a_head_of_16_kib_is_taken_and_a_larger_one_is_431(self, server: Twin, before: bytes) -> None:
        target, few = target_of(), [("Host2", "a" * 8000), ("Host3", "")]
        room = MAX_HEAD_BYTES - len(a_request(target, *few)) + len("GET  HTTP/1.1\r\n\r\n")
        fits = a_request(target, few[0], ("Host3", "a" * room))
        count = before.count(b"GET")
        assert statuses(server.exchange(before + fits)) == [200] * (count + 1)
        too_large = a_request(target, few[0], ("Host3", "a" * (room + 1)))
        answer = answers_to(server, before + too_large)
        assert statuses(answer) == [200] * count + [431]
        is_refusal(answer, 431, "head-too-large")

    @pytest.mark.parametrize(
        "begun",
        [
            b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n1;",
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nx: ",
        ],
        ids=["value", "name", "chunk-extension", "trailer"],
    )  # fmt: skip
    def test_what_never_ends_is_refused_while_it_is_small(self, server: Twin, begun: bytes) -> None:
        answer = answers_to(server, begun + b"a" * 30_000)
        assert set(statuses(answer)) <= {400, 431}
        assert len(statuses(answer)) == 1

    def test_a_client_that_is_still_sending_gets_its_refusal(self, server: Twin) -> None:
        """Closed at once, its connection would be reset, and the answer might never be seen."""
        with server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000)
            is_refusal(connection.recv(65536), 431, "head-too-large")
            connection.sendall(b"a" * 200_000)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536) == b""

    def test_malformed_is_400_with_the_id_that_was_sent(self, server: Twin) -> None:
        answer = answers_to(server, b"GET / HTTP/1.1\r\nX-Correlation-ID: mine\r\nA: b\r\nx y: z\r\n\r\n")
        is_refusal(answer, 400, "malformed-request")
        assert b"x-correlation-id: mine\r\n" in answer

    @pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"], ids=["none", "two"])
    @pytest.mark.parametrize(
        "path", [b"/health", b"/api/v1/routes/resolve?tenant=a&service=b&env=c&version=d"]
    )
    def test_a_request_names_one_host(self, server: Twin, path: bytes, hosts: bytes) -> None:
        answer = answers_to(server, b"GET %b HTTP/1.1\r\n%b\r\n" % (path, hosts))
        is_refusal(answer, 400, "malformed-request")

    def test_refusals_are_counted(self, server: Twin) -> None:
        sample = 'api_requests_total{endpoint="unmatched",method="GET",status_code="431"}'
        before = _metric(server, sample)
        answers_to(server, a_request("/health", *[("x", "a")] * 70))
        assert _metric(server, sample) == before + 1


def _metric(server: Twin, sample: str) -> float:
    for line in server.parts.metrics.render().decode().splitlines():
        if line.startswith(f"{sample} "):
            return float(line.rpartition(" ")[2])
    return 0.0


class TestTime:
    def test_a_head_that_does_not_end_is_408(self, server: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
        """However lively it drips."""
        monkeypatch.setattr(api_connection, "HEAD_S", 0.3)
        began = monotonic()
        with server.connect() as connection:
            connection.sendall(ASK + ASK_FASTAPI)
            answered = b""
            while answered.count(b'"revision"') < 2:
                answered += connection.recv(65536)
            dripping = threading.Thread(
                target=_drip, args=[connection, b"GET / HTTP/1.1\r\nx: " + b"a" * 200]
            )
            dripping.start()
            is_refusal(all_of(connection), 408, "request-too-slow")
            dripping.join()
        assert monotonic() - began < 5.0

    def test_a_body_that_does_not_come_is_408(self, server: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_requests, "BODY_S", 0.3)
        is_refusal(answers_to(server, POST + b"Content-Length: 10\r\n\r\n{"), 408, "request-too-slow")

    def test_a_body_that_nobody_reads_and_that_does_not_come_ends_the_connection(
        self, server: Twin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_connection, "BODY_S", 0.3)
        answer = answers_to(server, a_request(target_of(), ("Content-Length", "10")) + b"{")
        assert statuses(answer) == [200]

    @pytest.mark.parametrize("before", [b"", ASK, ASK_FASTAPI, ASK + b"\r\n"])
    def test_an_idle_connection_is_closed(
        self, server: Twin, before: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_connection, "KEEP_ALIVE_S", 0.3)
        began = monotonic()
        assert statuses(answers_to(server, before)) == [200] * bool(before)
        assert 0.25 < monotonic() - began < 5.0

    @pytest.mark.parametrize("request_bytes", [ASK, ASK_FASTAPI], ids=["plain", "unusual"])
    def test_a_connection_in_use_is_not_closed(
        self, server: Twin, request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long ago it began: time is not waited for here, but put forward."""
        monkeypatch.setattr(api_connection, "KEEP_ALIVE_S", 1000.0)
        with server.connect() as connection:
            for _ in range(3):
                connection.sendall(request_bytes)
                assert statuses(_one_answer(connection)) == [200]
                _look_whether_it_is_idle(server.connections[-1], after_s=600.0)
            _look_whether_it_is_idle(server.connections[-1], after_s=1000.0)
            assert connection.recv(65536) == b""

    def test_a_client_that_waits_for_an_answer_is_not_idle(
        self, twins: Twins, server: Twin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Long polls last longer than a connection may be idle."""

        async def slowly(_revision: int, _timeout_s: float) -> bool:
            await asyncio.sleep(1.0)
            return True

        monkeypatch.setattr(api_connection, "KEEP_ALIVE_S", 0.2)
        monkeypatch.setattr(twins.follower, "reached", slowly)
        answer = answers_to(server, a_request(target_of(), ("TM-Min-Revision", f"{EPOCH[:8]}.5")))
        assert statuses(answer) == [200]

    def test_empty_lines_do_not_keep_a_connection_open(
        self, server: Twin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_connection, "KEEP_ALIVE_S", 0.3)
        with server.connect() as connection:
            dripping = threading.Thread(target=_drip, args=[connection, b"\r\n" * 200])
            dripping.start()
            assert _until_gone(connection) == b""
            dripping.join()

    def test_a_client_that_takes_nothing_is_given_up(
        self, twins: Twins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(api_connection, "KEEP_ALIVE_S", 0.3)
        with twins.lane.connect() as connection, pytest.raises(ConnectionError):
            _ask_for_ever(connection)
        assert statuses(twins.lane.exchange(ASK_FASTAPI)) == [200]
        assert "unhandled_error" not in capsys.readouterr().out

    def test_timers_end_with_their_connection(self, server: Twin) -> None:
        """Else each connection would be kept for as long again as it could have been idle."""
        server.connections.clear()
        for _ in range(20):
            with server.connect() as connection:
                connection.sendall(b"GET / HT")
        wait_until(lambda: len(server.connections) == 20, what="all connections")
        wait_until(lambda: not server.server.server_state.connections, what="the end of all")
        timers = [timer for c in server.connections for timer in (c._idle_timer, c._slow_timer) if timer]
        assert len(timers) >= 20
        assert all(timer.cancelled() for timer in timers)


def _one_answer(connection: socket.socket) -> bytes:
    """Return a route as answered: its head may come before its body. What there is, if the server closes."""
    received = b""
    while b'"revision"' not in received and (part := connection.recv(65536)):
        received += part
    return received


def _look_whether_it_is_idle(connection: Connection, after_s: float) -> None:
    """Let *connection* close if it is idle, as if all that was had been *after_s* earlier. It has looked then."""
    has_looked = threading.Event()

    def look() -> None:
        assert connection._idle_timer is not None
        connection._idle_timer.cancel()
        connection._idle_since -= after_s
        connection._on_idle_timer()
        has_looked.set()

    connection.loop.call_soon_threadsafe(look)
    assert has_looked.wait(30.0)


def _ask_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(ASK * 100)


def _drip(connection: socket.socket, data: bytes) -> None:
    """Send *data* a byte at a time, fifty in a second, until the server has had enough."""
    try:
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            sleep(0.02)  # how slowly it comes is what is tested
    except OSError:
        pass


def _until_gone(connection: socket.socket) -> bytes:
    try:
        return all_of(connection)
    except ConnectionResetError:  # it closed with a byte of ours unread
        return b""


class TestOrder:
    # Of plain ones so many that the kernel's buffers cannot take all answers.
    @pytest.mark.parametrize(
        ("many", "unusual_each"), [(1000, 1), (3000, 7), (20_000, 10**6)], ids=["unusual", "mixed", "plain"]
    )
    def test_a_slow_reader_is_waited_for_and_gets_every_answer_in_order(
        self, twins: Twins, many: int, unusual_each: int
    ) -> None:
        """What it has not read is held by it, not by the server: a bounded part at a time."""
        server = twins.lane
        extra = [[("Cache-Control", "x")] if number % unusual_each == 0 else [] for number in range(many)]
        stream = (
            b"".join(
                a_request(target_of(), ("X-Correlation-ID", f"n-{number}"), *extra[number])
                for number in range(many)
            )
            + LAST
        )
        with server.connect() as connection:
            sending = threading.Thread(target=connection.sendall, args=[stream])
            sending.start()
            name = connection.getsockname()
            wait_until(lambda: name in [c.client for c in server.connections], what="the connection")
            ours = next(c for c in server.connections if c.client == name)
            wait_until(lambda: ours.flow.read_paused, what="back-pressure")
            assert len(ours.pipeline) < 250
            assert ours.transport.get_write_buffer_size() < 1 << 20
            assert len(ours._held) <= 1 << 18
            answer = all_of(connection)
            sending.join()
        assert re.findall(rb"x-correlation-id: n-(\d+)\r\n", answer) == [b"%d" % n for n in range(many)]
        assert len(statuses(answer)) == many + 1

    def test_a_request_is_no_part_of_the_one_that_it_was_sent_behind(
        self, server: Twin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began_with: list[dict[str, object]] = []
        call = RequestMonitoring.__call__

        async def noting(monitoring: RequestMonitoring, *request: Any) -> None:  # Any: scope, receive, send
            began_with.append(get_contextvars())
            await call(monitoring, *request)

        monkeypatch.setattr(RequestMonitoring, "__call__", noting)
        server.exchange(ASK_FASTAPI * 3)
        assert began_with == [{}] * 3

    def test_a_request_that_was_answered_early_has_no_second_answer_if_its_body_is_broken(
        self, server: Twin
    ) -> None:
        head = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        with server.connect() as connection:
            connection.sendall(head)
            answer = connection.recv(65536)
            connection.sendall(b"no number\r\n")
            assert statuses(answer + all_of(connection)) == [404]

    def test_whoever_asks_for_much_at_once_lets_others_have_their_turn(
        self, twins: Twins, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered: list[int] = []  # in each turn of the event loop
        feed = Connection._feed

        def counting(connection: Connection, data: bytes) -> None:
            before = connection.server_state.total_requests
            feed(connection, data)
            answered.append(connection.server_state.total_requests - before)

        monkeypatch.setattr(Connection, "_feed", counting)
        answer = answers_to(twins.lane, ASK * 1000 + LAST)
        assert statuses(answer) == [200] * 1001
        assert max(answered) < 200

    @pytest.mark.parametrize("garbage", [b"\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nx y: z\r\n\r\n"])
    def test_what_is_broken_is_refused_after_the_answers_before_it(
        self, server: Twin, garbage: bytes
    ) -> None:
        answer = answers_to(server, ASK_FASTAPI + ASK + garbage + ASK)
        assert statuses(answer) == [200, 200, 400]
        is_refusal(answer, 400, "malformed-request")

    @pytest.mark.parametrize("before", [b"", ASK, ASK_FASTAPI * 2])
    def test_a_broken_body_is_refused_in_its_turn(self, server: Twin, before: bytes) -> None:
        broken = POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"
        answer = answers_to(server, before + broken + ASK)
        assert statuses(answer) == [200] * before.count(b"GET") + [400]
        is_refusal(answer, 400, "malformed-request")

    @pytest.mark.parametrize("last", [LAST, a_request(target_of(), ("Connection", "close"), ("Expect", "x"))])
    def test_nothing_after_the_last_request_is_processed(self, server: Twin, last: bytes) -> None:
        """RFC 9112, 9.6: it could not be answered, and so must not be done."""
        sample = "resolve_requests_total"
        before = _metric(server, sample)
        assert statuses(answers_to(server, last + ASK + ASK_FASTAPI)) == [200]
        assert statuses(server.exchange(ASK)) == [200]
        assert _metric(server, sample) == before + 2

    def test_an_upgrade_is_not_made_and_the_answer_is_the_last(self, server: Twin) -> None:
        asked = a_request(target_of(), ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"))
        answer = answers_to(server, asked + ASK)
        assert statuses(answer) == [200]
        assert b"\r\nconnection: close\r\n" in answer

    def test_trailers_are_no_headers(self, server: Twin) -> None:
        chunked = a_request(target_of(), ("Transfer-Encoding", "chunked"), ("X-Correlation-ID", "mine"))
        answer = server.exchange(
            chunked + b"0\r\nTM-Min-Revision: x\r\nX-Correlation-ID: other\r\n\r\n" + ASK
        )
        assert statuses(answer) == [200, 200]
        assert b"x-correlation-id: mine\r\n" in answer

    def test_answers_to_whole_requests_reach_a_client_that_has_closed_its_side(self, server: Twin) -> None:
        assert statuses(server.exchange(ASK + ASK_FASTAPI + ASK)) == [200, 200, 200]

    def test_a_client_that_has_closed_its_side_is_let_go_when_the_answer_takes_long(
        self, server: Twin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be gone altogether: a long poll is not held for it."""
        monkeypatch.setattr(api_connection, "_HALF_CLOSED_S", 0.2)
        connection = server.connect()
        connection.sendall(a_request("/api/v1/changes/stream"))
        assert connection.recv(65536)
        connection.shutdown(socket.SHUT_WR)
        all_of(connection)
        connection.close()

    def test_a_request_after_a_pause_is_answered_as_at_once(self, twins: Twins) -> None:
        fast, documented = twins.answers(ASK, ASK_FASTAPI, ASK, LAST)
        assert fast == documented
        assert comparable(fast).count(b"HTTP/1.1 200 OK") == 4
