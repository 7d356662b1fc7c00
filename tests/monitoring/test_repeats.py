"""No event floods the log: so many lines a minute, and then how many there were."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from tests.clock import Clock
from traffic_manager.monitoring.repeats import LINES, Repeats


def is_written(repeats: Repeats, event: str, level: str) -> bool:
    """Return whether a line of *event* gets through."""
    try:
        repeats(None, level, {"event": event})
    except structlog.DropEvent:
        return False
    return True


@pytest.mark.parametrize("level", ["warning", "error", "exception"])
def test_so_many_lines_a_minute_of_one_event_and_the_next_minute_tells_of_the_rest(level: str) -> None:
    clock = Clock()
    repeats = Repeats(clock)
    with capture_logs() as told:
        assert sum(is_written(repeats, "unhandled_error", level) for _ in range(LINES + 7)) == LINES
        assert is_written(repeats, "another", level)
        assert not told
        clock.now += 60
        assert is_written(repeats, "unhandled_error", level)
    assert [(line["event"], line["of"], line["lines"]) for line in told] == [
        ("log_lines_left_out", "unhandled_error", 7)
    ]


@pytest.mark.parametrize("level", ["debug", "info"])
def test_what_is_asked_for_comes_whole(level: str) -> None:
    repeats = Repeats()
    assert all(is_written(repeats, "request_answered", level) for _ in range(2 * LINES))


def test_a_library_that_floods_is_held_back_as_one_event() -> None:
    from tests.monitoring.test_logs import lines_of

    lines = lines_of(f"""
        configure_logging("INFO", as_json=True)
        for number in range({LINES} + 5):
            logging.getLogger("uvicorn.error").warning(f"it happened {{number}}")
            log.info("also")
    """)
    assert [line["event"] for line in lines].count("also") == LINES + 5
    assert len(lines) == 2 * LINES + 5
