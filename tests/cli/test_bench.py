"""`bench`: what it measures, what it says of itself, and that it leaves nothing behind."""

from __future__ import annotations

import math
import signal
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.conftest import CommandLine
from tests.servers.ports import HOST
from traffic_manager.cli.load.connection import NO_ANSWER
from traffic_manager.cli.load.duties import Duty
from traffic_manager.cli.load.histogram import Histogram
from traffic_manager.cli.load.ledger import CHANGE, NEVER_SENT, RESOLVE, SEEN, Ledger
from traffic_manager.cli.load.plan import Load, Server
from traffic_manager.cli.load.processes import measured
from traffic_manager.cli.load.report import Report
from traffic_manager.client import Client, Filter

PATIENT = ("--timeout", "60", "--output", "json")
A_LOAD = Load(
    Server("http://127.0.0.1:8000"),
    tenant="team-a",
    service="bench-1",
    routes=10,
    url="https://bench.example.com",
    resolves=100.0,
    changes=10.0,
    watchers=2,
    connections=5,
    warm_up_s=0.0,
    duration_s=1.0,
    timeout_s=1.0,
)


def a_ledger(took_s: float = 0.01, late_s: float = 0.0, resolves: int = 100) -> Ledger:
    """Return what is known after a second in which so many resolves were due."""
    ledger = Ledger(1.0)
    ledger.begin(50.0)
    for number in range(resolves):
        due_s = 50.0 + number / resolves
        ledger.begun(due_s, due_s + late_s, waits=False)
        ledger.ended(RESOLVE, "200", due_s, due_s + took_s)
    return ledger


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0.1, 100))
def test_percentile_is_at_most_one_part_in_128_too_high(durations: list[int], percent: float) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    exact = sorted(durations)[math.ceil(percent * len(durations) / 100 - 1e-9) - 1]
    assert exact <= (histogram.percentile_us(percent) or 0) <= exact * (1 + 1 / 128)


def test_merged_histogram_is_of_all_durations() -> None:
    one, other = Histogram(), Histogram()
    one.add(3)
    other.add(70_000)
    one.merge(other)
    assert (one.count, one.percentile_us(50), one.longest_us) == (2, 3, 70_000)
    assert Histogram().percentile_us(50) is None


def test_what_falls_due_while_nothing_is_answered_counts_from_when_it_was_due() -> None:
    ledger, begun = Ledger(10.0), []
    ledger.begin(0.0)
    duty = Duty(rate=10.0, first_due=0.0, begin=lambda due_s, now_s: begun.append((due_s, now_s)))
    duty.start(0.0)
    duty.catch_up(now_s=0.0, end_s=10.0)
    duty.catch_up(now_s=0.95, end_s=10.0)
    for due_s, _ in begun:
        ledger.ended(RESOLVE, "200", due_s, 1.0)
    assert [round(due_s, 3) for due_s, _ in begun] == [number / 10 for number in range(10)]
    assert ledger.outcomes[RESOLVE, "200"].longest_us == 1_000_000
    assert [n for _, n in ledger.outcomes[RESOLVE, "200"].counts()] == [1] * 10


def test_nothing_is_begun_that_is_due_after_the_end() -> None:
    begun: list[float] = []
    duty = Duty(rate=10.0, first_due=0.5, begin=lambda due_s, now_s: begun.append(due_s))
    duty.start(100.0)
    duty.catch_up(now_s=200.0, end_s=100.3)
    assert begun == pytest.approx([100.05, 100.15, 100.25])


def test_parts_of_a_load_are_together_the_load() -> None:
    parts = [A_LOAD.part(number, 3) for number in range(3)]
    assert sum(part.resolves for part in parts) == pytest.approx(A_LOAD.resolves)
    assert [part.connections for part in parts] == [1, 2, 2]
    assert sum(part.watchers for part in parts) == A_LOAD.watchers


def test_what_was_due_in_the_warm_up_is_left_out() -> None:
    ledger = Ledger(1.0)
    ledger.begin(50.0)
    for due_s in (49.9, 50.0, 50.9, 51.0):
        ledger.ended(RESOLVE, "200", due_s, 52.0)
    assert ledger.count(RESOLVE) == 2


def a_busy_ledger() -> Ledger:
    ledger = a_ledger()
    ledger.busy = [0.2, 0.9]
    return ledger


@pytest.mark.parametrize(
    ("ledger", "kept_up"),
    [
        (a_ledger(took_s=0.01, late_s=0.002), True),
        (a_ledger(took_s=0.01, late_s=0.005), False),
        (a_ledger(took_s=0.0004, late_s=0.0009), True),
        (a_ledger(resolves=98), False),
        (a_busy_ledger(), False),
    ],
    ids=[
        "a small part of what it measures",
        "half of what it measures",
        "below a millisecond",
        "not all begun",
        "a busy process",
    ],
)
def test_generator_says_whether_it_kept_up(ledger: Ledger, kept_up: bool) -> None:
    assert ledger.kept_up(asked=100) is kept_up


def test_changes_that_did_not_reach_every_watcher_are_counted() -> None:
    ledger = a_ledger()
    ledger.watching = 2
    ledger.ended(CHANGE, "200", 50.5, 50.6)
    ledger.ended(SEEN, "200", 50.5, 50.7)
    assert ledger.unseen == 1


def test_report_has_a_row_for_each_outcome_and_a_chart(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = a_ledger(took_s=0.01)
    ledger.ended(CHANGE, "503", 50.5, 50.6)
    Report(A_LOAD, 1, ledger).show()
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines() if line.startswith(("resolve ", "change "))]
    assert rows[0] == ["resolve", "200", "100", "100.0", *["10.00"] * 5]
    assert rows[1][:3] == ["change", "503", "1"]
    assert "p99  ██" in shown.out
    assert "below     16.38 ms  100.00%  ████" in shown.out


def in_tenant(client: Client, tenant: str) -> int:
    return len(client.routes(Filter(tenant)).value.routes)


def test_requests_and_watchers_are_measured_and_routes_taken_away(
    tm: CommandLine, client: Client, tenant: str
) -> None:
    load = ["--rate", "100", "--changes", "20", "--routes", "30", "--watchers", "3", "--processes", "2"]
    result = tm("bench", *load, "--duration", "0.5", "--warm-up", "0.1", "--tenant", tenant, *PATIENT)
    found = result.document
    counts = {(row["request"], row["status"]): row["count"] for row in found["requests"]}
    assert counts == {("resolve", "200"): 50, ("change", "200"): 10, ("change seen", "200"): 30}, result.err
    assert all(0 < row["ms"]["p50"] <= row["ms"]["p99"] <= row["ms"]["max"] for row in found["requests"])
    assert sum(slot["resolves"] for slot in found["over_time"]) == 50
    assert (found["unseen"], found["generator"]["due"], found["generator"]["begun"]) == (0, 60, 60)
    # Whether it kept up is for the machine to say, which may be busy.
    assert result.code == (0 if found["generator"]["kept_up"] else 1)
    assert in_tenant(client, tenant) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_tells_what_it_has_and_takes_its_routes_away(
    tm: CommandLine, client: Client, tenant: str, number: signal.Signals
) -> None:
    with tm.start(
        "bench", "--duration", "600", "--warm-up", "0", "--routes", "5", "--tenant", tenant, *PATIENT
    ) as running:
        while not running.note().startswith("warming up"):
            pass
        assert in_tenant(client, tenant) == 5
        result = running.interrupt(number)
    assert result.code == 130, result.err
    assert result.document["was_interrupted"] is True
    assert in_tenant(client, tenant) == 0


def test_generator_that_cannot_keep_up_does_not_blame_the_server(tm: CommandLine, tenant: str) -> None:
    too_much = ("--rate", "1000000", "--duration", "0.1", "--warm-up", "0", "--timeout", "0.5")
    result = tm("bench", *too_much, "--tenant", tenant, "--output", "json")
    assert result.code == 1
    assert "the generator could not keep up" in result.err
    assert "raise --processes" in result.err
    assert result.document["generator"]["kept_up"] is False


def test_requests_without_an_answer_are_told_as_such() -> None:
    with socket.create_server((HOST, 0)) as silent:
        server = Server(f"http://{HOST}:{silent.getsockname()[1]}")
        load = replace(A_LOAD, server=server, changes=0.0, watchers=0, duration_s=0.2, timeout_s=0.5)
        ledger, was_interrupted = measured(load, 1, lambda _: None)
    unanswered = [ledger.count(RESOLVE, outcome) for outcome in (NO_ANSWER, NEVER_SENT)]
    assert (sum(unanswered), was_interrupted) == (20, False)
    assert ledger.outcomes[RESOLVE, NO_ANSWER].longest_us >= 500_000


def test_url_that_the_server_refuses_is_told_and_nothing_is_made(
    tm: CommandLine, client: Client, tenant: str
) -> None:
    result = tm("bench", "--url", "ftp://bench.example.com", "--tenant", tenant)
    assert (result.code, "url: must begin with https://" in result.err) == (1, True)
    assert in_tenant(client, tenant) == 0


def test_server_that_is_away_is_told_with_what_to_do(tm: CommandLine) -> None:
    result = tm("bench", "--server", "http://127.0.0.1:1")
    assert (result.code, "cannot reach http://127.0.0.1:1" in result.err) == (5, True)
    assert "left behind" not in result.err


@pytest.mark.parametrize(
    "options",
    [
        ("--watchers", "1", "--changes", "0"),
        ("--rate", "0", "--changes", "0"),
        ("--connections", "1", "--processes", "2"),
    ],
)
def test_load_that_makes_no_sense_is_refused(tm: CommandLine, options: tuple[str, ...]) -> None:
    assert tm("bench", *options).code == 2
