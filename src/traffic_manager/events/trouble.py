"""Something that the relay needs and that may be away: told once when it goes and once when it is back."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

_FIRST_S = 0.1
# The lease has to be kept meanwhile: renewed every 3 s, it is given up after 7.
_MOST_S = 2.0

log = structlog.get_logger(__name__)


class Trouble:
    """The trouble with *thing*, "database" or "kafka"."""

    def __init__(self, thing: str, clock: Callable[[], float]) -> None:
        self._thing = thing
        self._clock = clock
        self._kind = ""
        self._most_s = _FIRST_S
        self.since: float | None = None

    def met(self, kind: str, reason: str) -> float:
        """Return how many seconds to wait before the next try: full jitter below a bound that doubles, so
        that workers do not come back in step. Logs when the trouble begins and when it becomes another
        *kind*, not at each try."""
        if kind != self._kind:
            log.warning("relay_waits", waits_for=self._thing, kind=kind, reason=reason)
        if self.since is None:
            self.since = self._clock()
        self._kind = kind
        pause_s = random.uniform(0.02, self._most_s)  # noqa: S311 not a secret
        self._most_s = min(_MOST_S, self._most_s * 2)
        return pause_s

    def over(self) -> None:
        """Take note that the thing works."""
        if self.since is None:
            return
        log.info("relay_goes_on", waited_for=self._thing, seconds=round(self._clock() - self.since, 1))
        self.since, self._kind, self._most_s = None, "", _FIRST_S
