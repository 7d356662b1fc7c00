"""Under overload requests are refused in order, clearly and before anything is done for them; probes never are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.api.calls import ROUTES
from tests.api.test_lane import a_request, target_of
from tests.api.twins import Twin, Twins, the_twins
from traffic_manager.api.shedding import load_of
from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.overload import MOST, STEPS

EVERYTHING = len(Load)
PROBES = ["/health", "/health/live", "/health/ready"]
KINDS = [
    *[("GET", path, None) for path in (*PROBES, "/metrics")],
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


def loaded(twin: Twin, level: int) -> Twin:
    """Return it with so many kinds of load refused."""
    twin.parts.overload.level = min(MOST, level * STEPS)
    twin.parts.overload.refuses_resolves = level == EVERYTHING
    return twin


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all that a connection was answered."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


@pytest.mark.parametrize(("method", "path", "load"), KINDS)
def test_every_call_is_of_a_kind(method: str, path: str, load: Load | None) -> None:
    assert load_of(method, path) is load


@pytest.mark.parametrize("level", range(EVERYTHING + 1))
def test_probes_are_answered_whatever_is_refused(twins: Twins, level: int) -> None:
    for twin in (twins.lane, twins.documented):
        assert statuses(loaded(twin, level).exchange(a_request("/health/live"))) == [200]


def test_refusal_says_what_it_is_and_when_to_come_again_and_keeps_the_connection(twins: Twins) -> None:
    answer = loaded(twins.documented, 1).exchange(a_request(ROUTES) * 2)
    assert statuses(answer) == [503, 503]
    assert b"urn:traffic-manager:overloaded" in answer
    assert re.search(rb"(?i)\r\nretry-after: [123]\r\n", answer)
    assert b"connection: close" not in answer


def test_clients_are_told_different_times_to_come_again(twins: Twins) -> None:
    answers = loaded(twins.documented, 1).exchange(*[a_request(ROUTES)] * 40)
    assert set(re.findall(rb"(?i)\r\nretry-after: (\d+)\r\n", answers)) == {b"1", b"2", b"3"}


def test_resolves_that_memory_answers_go_on_while_all_else_is_refused(twins: Twins) -> None:
    resolves = a_request(target_of()) * 8
    assert statuses(loaded(twins.lane, EVERYTHING - 1).exchange(resolves)) == [200] * 8
    assert statuses(loaded(twins.documented, EVERYTHING - 1).exchange(resolves)) == [503] * 8


def test_in_the_end_one_in_four_of_them_is_refused_as_the_documented_route_would(twins: Twins) -> None:
    request = a_request(target_of(), ("X-Correlation-ID", "id-1"))
    answer = loaded(twins.lane, EVERYTHING).exchange(request * 8)
    assert sorted(statuses(answer)) == [200] * 6 + [503] * 2
    refusal = b"HTTP/1.1 503" + answer.split(b"HTTP/1.1 503")[1].split(b"HTTP/1.1")[0]
    documented = loaded(twins.documented, EVERYTHING).exchange(request)
    assert lines(refusal) == lines(documented)


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
    answer = loaded(twins.lane, 2).exchange(change, body, a_request(target_of()))
    assert statuses(answer) == [503, 200]


@pytest.mark.parametrize(
    "last",
    [a_request(ROUTES, ("Connection", "close")), f"HEAD {ROUTES} HTTP/1.1\r\nHost: x\r\n\r\n".encode()],
)
def test_requests_that_end_a_connection_or_want_no_body_are_refused_alike(twins: Twins, last: bytes) -> None:
    answer = loaded(twins.lane, 1).exchange(last)
    assert statuses(answer) == [503]
    assert answer.endswith(b"\r\n\r\n") == last.startswith(b"HEAD")
