"""The lane where some of its answers are told of, in the access log. Without it the lane is the plain one, and asks
nothing."""

from __future__ import annotations

from time import perf_counter

import structlog

from traffic_manager.api.context import Parts
from traffic_manager.api.lane import Asked, Lane, Manner
from traffic_manager.api.problems import Headers
from traffic_manager.api.resolve import RESOLVE_PATH
from traffic_manager.monitoring.access_log import tell
from traffic_manager.monitoring.resolve_counts import RESOLVE_ENDPOINT

# An answer begins `HTTP/1.1 200 `.
_STATUS = slice(9, 12)

log = structlog.get_logger(__name__)


def lane_of(parts: Parts) -> Lane:
    """Return what the connections of a worker share."""
    return TellingLane(parts) if parts.access_log.is_on else Lane(parts)


class TellingLane(Lane):
    """A lane that tells of its answers as the documented route does."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._draw = parts.access_log.draw

    def answer(
        self,
        asked: Asked,
        manner: Manner,
        mark: bytes | None,
        correlation_id: bytes | None,
        general: Headers,
    ) -> bytes | None:
        """Return the whole answer, as the plain lane does."""
        if not self._draw():
            return super().answer(asked, manner, mark, correlation_id, general)
        began = perf_counter()
        correlation_id = correlation_id or next(self._ids)
        answer = super().answer(asked, manner, mark, correlation_id, general)
        if answer is not None:
            self._tell(int(answer[_STATUS]), perf_counter() - began, correlation_id.decode())
        return answer

    def _tell(self, status: int, seconds: float, correlation_id: str) -> None:
        tell(
            log.info,
            "GET",
            RESOLVE_PATH,
            RESOLVE_ENDPOINT,
            status,
            seconds,
            correlation_id=correlation_id,
        )
