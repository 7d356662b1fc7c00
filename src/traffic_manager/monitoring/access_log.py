"""The line of each answered request, or of some of them (`API_ACCESS_LOG`): of documented calls and of both lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import random
from types import MappingProxyType

import structlog

from traffic_manager.monitoring.failure_lines import FailureLines

NO_IDS: Mapping[str, str] = MappingProxyType({})

log = structlog.get_logger(__name__)


class AccessLog:
    """Writes lines for *share* of the requests, 0 to 1, at level info, and those of the others at level debug. Failed
    ones (5xx) come at level warning, so many a minute."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._failures = FailureLines()
        self.is_on = share > 0

    def draw(self) -> bool:
        """Return whether one more request is to have its line."""
        return random() < self._share  # noqa: S311 not a secret

    def answered(
        self,
        method: str,
        path: str,
        endpoint: str,
        status: int,
        seconds: float,
        *,
        is_shed: bool = False,
        ids: Mapping[str, str] = NO_IDS,
    ) -> None:
        """Tell of a request, if it is one of those. *is_shed*: it was refused under overload, when a warning each
        would be most of the work. *ids*: what log lines know it by, if that is not bound."""
        say = log.info if self.draw() else log.debug
        if status >= 500 and not is_shed and self._failures.admit():
            say = log.warning
        tell(say, method, path, endpoint, status, seconds, ids)


def tell(
    say: Callable[..., None],
    method: str,
    path: str,
    endpoint: str,
    status: int,
    seconds: float,
    ids: Mapping[str, str],
) -> None:
    """Write the line of an answered request."""
    say(
        "request_answered",
        method=method,
        path=path,
        endpoint=endpoint,
        status=status,
        seconds=round(seconds, 6),
        **ids,
    )
