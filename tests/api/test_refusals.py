"""Sign-in failures and denials are counted, all of them, and told in the log, not too many of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.api.calls import BATCH, URL
from tests.clock import Clock
from tests.monitoring.exposition import values
from tests.node import Node, a_key, a_route, wait_until
from traffic_manager.access.credentials import Credential
from traffic_manager.api.refusals import LINES, LINES_OF_ADDRESS, Refusals
from traffic_manager.monitoring.metrics import Metrics

Line = MutableMapping[str, Any]  # Any: a log line's values


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    """Nothing was refused yet."""
    return Refusals(Metrics(), clock)


@pytest.fixture
def lines() -> Iterator[Sequence[Line]]:
    """All log lines."""
    with capture_logs() as logs:
        yield logs


def fail(refusals: Refusals, address: str = "192.0.2.1", times: int = 1) -> None:
    """Let sign-ins fail."""
    for _ in range(times):
        refusals.sign_in_failed(address, "GET", "/api/v1/routes", "c-1")


def test_a_few_lines_a_minute_are_told_of_each_address(
    refusals: Refusals, clock: Clock, lines: Sequence[Line]
) -> None:
    fail(refusals, times=1000)
    fail(refusals, "192.0.2.2")
    assert [line["address"] for line in lines] == ["192.0.2.1"] * LINES_OF_ADDRESS + ["192.0.2.2"]
    clock.now += 60
    fail(refusals)
    assert [line["event"] for line in lines[-2:]] == ["access_refusals_left_out", "sign_in_failed"]
    assert lines[-2]["lines"] == 1000 - LINES_OF_ADDRESS


def test_failures_leave_the_denials_their_lines(refusals: Refusals, lines: Sequence[Line]) -> None:
    fail(refusals, times=1000)
    refusals.denied("alice/k1", "192.0.2.1", "GET", "/api/v1/routes", "c-2")
    assert [line["event"] for line in lines] == ["sign_in_failed"] * LINES_OF_ADDRESS + ["access_denied"]


def test_many_addresses_share_a_bound(refusals: Refusals, lines: Sequence[Line]) -> None:
    for number in range(5000):
        fail(refusals, f"2001:db8::{number:x}")
    assert len(lines) == LINES


def test_a_quiet_minute_tells_of_nothing_left_out(
    refusals: Refusals, clock: Clock, lines: Sequence[Line]
) -> None:
    for _ in range(3):
        fail(refusals)
        clock.now += 60
    assert [line["event"] for line in lines] == ["sign_in_failed"] * 3


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks everybody for a key."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    with Node(folder, {**REQUIRED, "LOG_FORMAT": "json"}) as node:
        yield node.start()


def _refused(node: Node) -> tuple[float, float]:
    with node.client() as client:
        client.headers.update(bearer(a_key_for(node, "viewer:*/*")))
        wait_until(lambda: client.get("/metrics").status_code == 200, what="the new key")
        found = values(client.get("/metrics").content)
    name = "tm_access_refused_total"
    return found[f'{name}{{reason="unauthenticated"}}'], found[f'{name}{{reason="forbidden"}}']


def _told(node: Node, event: str, number: int) -> list[Line]:
    """Return the lines of the log with this *event*; none before there are so many."""
    documents = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    found = [document for document in documents if document.get("event") == event]
    return found if len(found) >= number else []


def test_a_real_server_tells_and_counts_both_and_no_secret(guarded: Node) -> None:
    wrong = str(Credential.new())
    batch = {"operations": [{"operation": "delete", **a_key(tenant="team-b")}]}
    key = a_key_for(guarded, "editor:team-a/prod", owner="alice")
    with guarded.client() as client:
        assert client.get("/api/v1/whoami", headers=bearer(wrong)).status_code == 401
        client.headers.update(bearer(key))
        wait_until(lambda: client.get("/api/v1/whoami").status_code == 200, what="the new key")
        denied = [
            client.post("/api/v1/routes", json=a_route(URL, tenant="team-b")),
            client.post(BATCH, json=batch),
            client.get("/api/v1/routes", params={"tenant": "team-b"}),
        ]
    assert [answer.status_code for answer in denied] == [403] * 3
    told = wait_until(lambda: _told(guarded, "access_denied", 3), what="the lines of the log")
    assert all(line["actor"].startswith("alice/") and line["address"] == "127.0.0.1" for line in told)
    assert _told(guarded, "sign_in_failed", 1)
    log = guarded.log()
    assert (wrong in log, key in log, wrong.split("_")[2] in log) == (False, False, False)
    unauthenticated, forbidden = _refused(guarded)
    assert (unauthenticated >= 1, forbidden) == (True, 3)
