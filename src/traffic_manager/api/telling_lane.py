"""The lane where some of its answers are told of, in the access log or as spans. Without either the lane is the plain
one, and asks nothing."""

from __future__ import annotations

from time import perf_counter

import structlog

from traffic_manager.api.context import Parts
from traffic_manager.api.lane import Asked, Lane, Manner
from traffic_manager.api.problems import Headers
from traffic_manager.api.resolve import RESOLVE_PATH
from traffic_manager.monitoring.access_log import tell
from traffic_manager.monitoring.resolve_counts import RESOLVE_ENDPOINT
from traffic_manager.monitoring.spans import Parent, parent_in

# An answer begins `HTTP/1.1 200 `.
_STATUS = slice(9, 12)

log = structlog.get_logger(__name__)


def lane_of(parts: Parts) -> Lane:
    """Return what the connections of a worker share."""
    return TellingLane(parts) if parts.access_log.is_on or parts.tracing else Lane(parts)


class TellingLane(Lane):
    """A lane that tells of its answers as the documented route does."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._has_lines = parts.access_log.is_on
        self._draw = parts.access_log.draw
        self._tracing = parts.tracing

    def parent_in(self, headers: Headers) -> Parent | None:
        """Return what a request with these headers is a part of."""
        return parent_in(headers) if self._tracing else None

    def remember(self, line: bytes, headers: bytes, asked: Asked, manner: Manner) -> None:
        """Take note of how a head is parsed; not of headers that name a span, which no other request has."""
        if manner.parent is None:
            super().remember(line, headers, asked, manner)
        else:
            self._lines.put(line, asked)

    def answer(
        self,
        asked: Asked,
        manner: Manner,
        mark: bytes | None,
        correlation_id: bytes | None,
        general: Headers,
    ) -> bytes | None:
        """Return the whole answer, as the plain lane does."""
        is_drawn = self._has_lines and self._draw()
        span = None if self._tracing is None else self._tracing.begin(manner.parent)
        if span is None and not is_drawn:
            return super().answer(asked, manner, mark, correlation_id, general)
        began = perf_counter()
        correlation_id = correlation_id or next(self._ids)
        answer = super().answer(asked, manner, mark, correlation_id, general)
        if answer is None:
            return None  # the documented route tells of it, and draws again
        status, request_id = int(answer[_STATUS]), correlation_id.decode()
        if is_drawn:
            ids = {"correlation_id": request_id, **(span.ids if span else {})}
            tell(log.info, "GET", RESOLVE_PATH, RESOLVE_ENDPOINT, status, perf_counter() - began, ids)
        if span is not None:
            span.answered("GET", RESOLVE_ENDPOINT, RESOLVE_PATH, status, request_id)
        return answer
