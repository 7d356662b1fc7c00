"""Changes the level of the log while the server runs: SIGUSR1 makes it DEBUG, SIGUSR2 what LOG_LEVEL says.

Each says which level, not one more or one less: the system merges signals that come together, and sent twice neither
does harm. Workers are told by their parent, and those that it forks later have its level from birth.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import structlog

from traffic_manager.monitoring.logs import set_level

TALKATIVE, USUAL = signal.SIGUSR1, signal.SIGUSR2
SIGNALS = (TALKATIVE, USUAL)

log = structlog.get_logger(__name__)


class LevelSwitch:
    """Takes the signals of this process. *usual* is LOG_LEVEL; *pass_on* is told which signal came."""

    def __init__(self, usual: str) -> None:
        self._usual = usual
        self.pass_on: Callable[[int], None] = lambda _number: None

    def listen(self) -> None:
        """From now on heed them. Call early: until then they end the process."""
        for number in SIGNALS:
            signal.signal(number, self.take)

    def take(self, number: int, _frame: FrameType | None = None) -> None:
        """Change the level as the signal *number* says."""
        if number == TALKATIVE:
            set_level("DEBUG")
        # In between, so that the line is written whatever the usual level is.
        log.info("log_level_changed", to="DEBUG" if number == TALKATIVE else self._usual)
        if number == USUAL:
            set_level(self._usual)
        self.pass_on(number)
