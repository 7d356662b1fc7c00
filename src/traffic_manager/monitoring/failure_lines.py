"""Which lines of failed requests the log gets: so many a minute.

When everything fails, or somebody asks for what can only fail, a line each would push all others out. The metrics
count them all.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import structlog

LINES = 100
_WINDOW_S = 60.0

log = structlog.get_logger(__name__)


class FailureLines:
    """The failed requests of one worker, or one way in. *now*: seconds."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._since = now()
        self._told = self._left_out = 0

    def admit(self) -> bool:
        """Return whether one more may have its line. The first of another minute tells how many had none."""
        now = self._now()
        if now - self._since >= _WINDOW_S:
            if self._left_out:
                log.warning("failed_requests_left_out", lines=self._left_out)
            self._since, self._told, self._left_out = now, 0, 0
        is_admitted = self._told < LINES
        self._told += is_admitted
        self._left_out += not is_admitted
        return is_admitted
