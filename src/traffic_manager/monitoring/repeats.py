"""Lets every event have so many lines a minute, and tells of the rest by their number.

An event is logged where something begins or ends, not at each repetition; this is for what nobody thought of: a bug
that every request meets, a dependency that comes and goes. Else such lines would push all others out of the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic

import structlog
from structlog.typing import EventDict, WrappedLogger

LINES = 100
_WINDOW_S = 60.0
# What is told of every request at these levels is asked for: by API_ACCESS_LOG, or by the level.
_FREE = ("debug", "info")

log = structlog.get_logger(__name__)


class Repeats:
    """The lines of one process, as a processor of structlog. *now*: seconds."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._since = now()
        self._lines: Counter[str] = Counter()

    def __call__(self, _logger: WrappedLogger, method: str, facts: EventDict) -> EventDict:
        """Pass *facts* on. Raises DropEvent for a line too many."""
        if method not in _FREE and not self.admit(str(facts["event"])):
            raise structlog.DropEvent
        return facts

    def admit(self, event: str) -> bool:
        """Return whether one more line of *event* may be written."""
        now = self._now()
        if now - self._since >= _WINDOW_S:
            self._since, before, self._lines = now, self._lines, Counter()
            _tell(before)
        self._lines[event] += 1
        return self._lines[event] <= LINES


def _tell(lines: Counter[str]) -> None:
    for event, count in lines.items():
        if count > LINES:
            log.warning("log_lines_left_out", of=event, lines=count - LINES)
