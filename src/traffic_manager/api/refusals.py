"""Who was not let in, and who was not let do something: counted, and told in the log as far as people can read it.

Whoever floods us with bad credentials must not flood the log, nor push others' lines out of it: a few lines a minute
for each address, some more for all of them together, and then how many were left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic

import structlog

from traffic_manager.monitoring.label_values import AccessRefusal
from traffic_manager.monitoring.metrics import Metrics

_WINDOW_S = 60.0
LINES_OF_ADDRESS = 5
LINES = 100

log = structlog.get_logger(__name__)


class Refusals:
    """Refusals at one worker. *now*: seconds."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = monotonic) -> None:
        self._metrics = metrics
        self._now = now
        self._since = now()
        # Apart, so that failures leave the denials their lines.
        self._told: dict[AccessRefusal, Counter[str]] = {refusal: Counter() for refusal in AccessRefusal}
        self._left_out = 0

    def sign_in_failed(self, address: str, method: str, path: str, correlation_id: str) -> None:
        """Take note of a request without a good credential. Nothing of what it showed is told: it may be nearly a
        good one, mistyped."""
        self._note(
            AccessRefusal.UNAUTHENTICATED,
            "sign_in_failed",
            address=address,
            method=method,
            path=path,
            correlation_id=correlation_id,
        )

    def denied(self, actor: str, address: str, method: str, path: str, correlation_id: str) -> None:
        """Take note of a request of *actor* that is not permitted."""
        self._note(
            AccessRefusal.FORBIDDEN,
            "access_denied",
            actor=actor,
            address=address,
            method=method,
            path=path,
            correlation_id=correlation_id,
        )

    def _note(self, refusal: AccessRefusal, event: str, *, address: str, **facts: str) -> None:
        self._metrics.tm_access_refused_total.labels(refusal).inc()
        self._turn_over()
        told = self._told[refusal]
        if told[address] < LINES_OF_ADDRESS and told.total() < LINES:
            told[address] += 1
            log.warning(event, address=address, **facts)
        else:
            self._left_out += 1

    def _turn_over(self) -> None:
        """Begin another minute, if it is time, and tell what the last one left out."""
        now = self._now()
        if now - self._since < _WINDOW_S:
            return
        if self._left_out:
            log.warning("access_refusals_left_out", lines=self._left_out)
        self._since, self._left_out = now, 0
        for told in self._told.values():
            told.clear()
