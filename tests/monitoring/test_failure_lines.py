"""Failed requests have so many lines in the log, and the rest are counted there."""

from __future__ import annotations

from structlog.testing import capture_logs

from tests.clock import Clock
from traffic_manager.monitoring.failure_lines import LINES, FailureLines


def test_so_many_a_minute_have_a_line_and_the_next_minute_tells_of_the_rest() -> None:
    clock = Clock()
    lines = FailureLines(clock)
    with capture_logs() as told:
        assert sum(lines.admit() for _ in range(LINES + 7)) == LINES
        assert not told
        clock.now += 60
        assert lines.admit()
    assert [(line["event"], line["lines"]) for line in told] == [("failed_requests_left_out", 7)]


def test_a_quiet_minute_is_not_told_of() -> None:
    clock = Clock()
    lines = FailureLines(clock)
    with capture_logs() as told:
        for _ in range(3):
            assert lines.admit()
            clock.now += 60
    assert not told
