"""Under overload requests are refused in order, clearly and before anything is done for them; probes never are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.api.calls import ROUTES
from tests.api.test_lane import a_request, target_of
from tests.api.twins import Twin, Twins, all_of, the_twins
from traffic_manager.api.shedding import load_of
from traffic_manager.monitoring.label_values import Load

PROBES = ["/health", "/health/live", "/health/ready"]
KINDS = [
    *[(method, path, None) for path in (*PROBES, "/metrics") for method in ("GET", "HEAD")],
    ("POST", "/health/live", Load.WRITES),
    ("GET", f"{ROUTES}/resolve", Load.MISSES),
    ("POST", f"{ROUTES}/resolve", Load.MISSES),
    ("POST", ROUTES, Load.WRITES),
    ("POST", f"{ROUTES}/activate", Load.WRITES),
    ("PUT", f"{ROUTES}/a/b/c/d", Load.WRITES),
    ("DELETE", f"{ROUTES}/a/b/c/d", Load.WRITES),
    ("POST", "/api/v1/keys", Load.WRITES),
    ("POST", f"{ROUTES}/batch", Load.LISTS),
    ("GET", ROUTES, Load.LISTS),
    ("GET", f"{ROUTES}/a/b/c/d/history", Load.LISTS),
    ("GET", "/api/v1/changes", Load.LISTS),
    ("GET", "/api/v1/changes/stream", Load.LISTS),
]


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    """Two servers over one mirror, with the lane and without."""
    with the_twins() as both:
        yield both


@contextmanager
def overloaded(twin: Twin) -> Iterator[Twin]:
    """Lend it with so much to do that even what memory answers waits."""
    twin.parts.overload.stands = True
    try:
        yield twin
    finally:
        twin.parts.overload.stands = False


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all that a connection was answered."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


# Each of another kind, and answered without a database.
KNOWN = a_request(target_of())
MISS = a_request(target_of(), ("TM-Min-Revision", "abababab.7"))
WRITE = f"PUT {ROUTES}/a/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
LIST = a_request(f"{ROUTES}/a/b")
LIVE = a_request("/health/live")


@pytest.mark.parametrize(("method", "path", "load"), KINDS)
def test_every_call_is_of_a_kind(method: str, path: str, load: Load | None) -> None:
    assert load_of(method, path) is load


@pytest.mark.parametrize(
    ("misses", "refused"),
    [(0, set()), (4, {LIST}), (8, {LIST, WRITE}), (12, {LIST, WRITE, MISS})],
    ids=["nothing", "lists", "writes, too", "misses, too"],
)
def test_the_more_there_is_of_the_important_the_more_is_refused_of_the_rest(
    twins: Twins, misses: int, refused: set[bytes]
) -> None:
    requests = [LIST] * 5 + [WRITE] * 4 + [MISS] * misses + [KNOWN, LIVE]
    with twins.lane.one_at_a_time() as server:
        answers = zip(requests, server.answers_together(requests), strict=True)
        seen = [(request, *statuses(answer)) for request, answer in answers]
    assert {request for request, status in seen if status == 503} == refused
    assert [status for request, status in seen if request in (KNOWN, LIVE)] == [200, 200]


def test_liveness_is_answered_whatever_is_refused(twins: Twins) -> None:
    for twin in (twins.lane, twins.documented):
        with overloaded(twin) as server:
            assert statuses(server.exchange(LIVE)) == [200]


def test_refusal_says_what_it_is_and_when_to_come_again_and_keeps_the_connection(twins: Twins) -> None:
    with overloaded(twins.documented) as server:
        answer = server.exchange(a_request(ROUTES) * 2)
    assert statuses(answer) == [503, 503]
    assert b"urn:traffic-manager:overloaded" in answer
    assert re.search(rb"(?i)\r\nretry-after: [123]\r\n", answer)
    assert b"connection: close" not in answer


def test_clients_are_told_different_times_to_come_again(twins: Twins) -> None:
    with overloaded(twins.documented) as server:
        answers = server.exchange(*[a_request(ROUTES)] * 40)
    assert set(re.findall(rb"(?i)\r\nretry-after: (\d+)\r\n", answers)) == {b"1", b"2", b"3"}


def test_in_the_end_one_in_four_known_resolves_is_refused_as_the_documented_route_would(twins: Twins) -> None:
    request = a_request(target_of(), ("X-Correlation-ID", "id-1"))
    with overloaded(twins.lane) as server:
        answer = server.exchange(request * 8)
    assert sorted(statuses(answer)) == [200] * 6 + [503] * 2
    refusal = b"HTTP/1.1 503" + answer.split(b"HTTP/1.1 503")[1].split(b"HTTP/1.1")[0]
    with overloaded(twins.documented) as server:
        documented = server.exchange(request)
    assert lines(refusal) == lines(documented)


@pytest.mark.parametrize("kind", [MISS, WRITE, LIST], ids=["miss", "write", "list"])
def test_who_has_waited_is_refused_as_who_would_have_to(twins: Twins, kind: bytes) -> None:
    request = kind[:-2] + b"X-Correlation-ID: id-1\r\n\r\n"
    with twins.lane.one_at_a_time() as server:
        answers = server.answers_together([request] * 12)
    waited = {tuple(lines(answer)) for answer in answers if statuses(answer) == [503]}
    with overloaded(twins.lane) as server:
        assert waited == {tuple(lines(server.exchange(request)))}


def lines(answer: bytes) -> list[bytes]:
    """Return what does not depend on the time, in any order."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return [*sorted(line for line in head.split(b"\r\n") if not line.startswith(b"date:")), body]


def test_body_of_a_refused_change_is_dropped_and_the_connection_goes_on(twins: Twins) -> None:
    body = b'{"url": "https://payments.example.com/v2"}'
    head = (
        b"PUT %b/a/b/c/d HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    change = head % (ROUTES.encode(), len(body))
    with overloaded(twins.lane) as server:
        answer = server.exchange(change, body, a_request(target_of()))
    assert statuses(answer) == [503, 200]


@pytest.mark.parametrize(
    "last",
    [a_request(ROUTES, ("Connection", "close")), f"HEAD {ROUTES} HTTP/1.1\r\nHost: x\r\n\r\n".encode()],
)
def test_requests_that_end_a_connection_or_want_no_body_are_refused_alike(twins: Twins, last: bytes) -> None:
    with overloaded(twins.lane) as server:
        answer = server.exchange(last)
    assert statuses(answer) == [503]
    assert answer.endswith(b"\r\n\r\n") == last.startswith(b"HEAD")


@pytest.mark.parametrize("before", [b"", KNOWN], ids=["first", "second"])
def test_request_for_another_protocol_is_refused_alike_and_ends_the_connection(
    twins: Twins, before: bytes
) -> None:
    upgrade = a_request(ROUTES, ("Connection", "Upgrade"), ("Upgrade", "h2c"))
    with overloaded(twins.lane) as server, server.connect() as client:
        client.sendall(before + upgrade)
        answer = all_of(client)
    assert statuses(answer)[-1] == 503
    assert b"connection: close" in answer


@pytest.mark.parametrize("path", [f"{ROUTES}/batch", "/nowhere"])
def test_request_that_was_answered_has_no_second_answer_if_its_body_is_broken(
    twins: Twins, path: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with overloaded(twins.lane) as server, server.connect() as client:
        client.sendall(head)
        answer = client.recv(65536)
        client.sendall(b"no number\r\n")
        answer += all_of(client)
    assert statuses(answer) == [503]
