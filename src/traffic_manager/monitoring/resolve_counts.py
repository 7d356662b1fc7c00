"""Counts of resolves that cost less than the resolve: one memory cell per number, added to in place.

A prometheus_client call costs more than the look-up that it counts. So the resolve path adds to cells here,
150 ns a request, and `Metrics` adds the cells to its own numbers when it is scraped. With several workers the
cells lie in a file per worker that every worker reads, so a killed worker's counts are not lost.

The event loop's thread alone may count: two threads adding to one cell at once can lose a count.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate
from pathlib import Path
from struct import Struct

from prometheus_client.utils import floatToGoString

RESOLVE_ENDPOINT = "/api/v1/routes/resolve"
# Upper bounds in seconds. From memory 10 to 50 µs are usual, from Redis 0.5 ms, from the database 1 to 5 ms.
# REQUEST_BUCKETS must be among them, because the lane's requests are counted in these.
RESOLVE_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
# With which statuses the lane answers: hits, and 404 from memory.
LANE_STATUSES = (200, 304, 404)

# A sample of an exposition: its name, and its labels in the order of their names.
SampleKey = tuple[str, tuple[tuple[str, str], ...]]


class ResolveOutcome(IntEnum):
    """How a resolve was answered. The value is the outcome's cell."""

    HIT = 0  # from memory or Redis, "not modified" too
    MISS = 1  # the database was read
    NEGATIVE = 2  # "no active route" from memory or Redis
    REFUSED = 3  # the request was ill-formed
    UNAVAILABLE = 4  # unknown here, and the database could not be asked


_BUCKET_CELLS = len(RESOLVE_BUCKETS) + 1
_BUCKETS = len(ResolveOutcome)
_SUM = _BUCKETS + _BUCKET_CELLS
_LANE_BUCKETS = _SUM + 1
_LANE_SUM = _LANE_BUCKETS + _BUCKET_CELLS
_LANE_STATUS = {status: _LANE_SUM + 1 + i for i, status in enumerate(LANE_STATUSES)}
_CELLS = Struct(f"={_LANE_SUM + 1 + len(LANE_STATUSES)}d")


class ResolveCounts:
    """The cells of one worker, kept in the file *path* if one is given."""

    def __init__(self, path: Path | None = None) -> None:
        self._cells = memoryview(bytearray(_CELLS.size) if path is None else _mapped(path)).cast("d")

    def resolved(self, outcome: ResolveOutcome, seconds: float) -> None:
        """Count a resolve that was not answered by the lane."""
        cells = self._cells
        cells[outcome] += 1.0
        cells[_BUCKETS + bisect_left(RESOLVE_BUCKETS, seconds)] += 1.0
        cells[_SUM] += seconds

    def resolved_in_lane(self, status: int, seconds: float) -> None:
        """Count a resolve that the lane answered with *status*, one of LANE_STATUSES: as a resolve, whose outcome
        the status tells, and as an HTTP request."""
        cells = self._cells
        cells[_LANE_BUCKETS + bisect_left(RESOLVE_BUCKETS, seconds)] += 1.0
        cells[_LANE_SUM] += seconds
        cells[_LANE_STATUS[status]] += 1.0

    def resolved_in_batch(self, outcome: ResolveOutcome, count: int) -> None:
        """Count *count* keys of a batch. Their time is the request's alone: no key took it."""
        self._cells[outcome] += count

    def values(self) -> Sequence[float]:
        """Return the cells as they are now."""
        return self._cells.tolist()


def read_all(paths: Iterable[Path]) -> Sequence[float]:
    """Return the sums of the cells in the files *paths*."""
    sums = [0.0] * (_CELLS.size // 8)
    for path in paths:
        data = path.read_bytes()
        if len(data) == _CELLS.size:
            sums = [a + b for a, b in zip(sums, _CELLS.unpack(data), strict=True)]
    return sums


def as_samples(values: Sequence[float]) -> dict[SampleKey, float]:
    """Return what *values* add to the samples of an exposition."""
    in_lane = values[_LANE_BUCKETS:_LANE_SUM]
    everywhere = [a + b for a, b in zip(values[_BUCKETS:_SUM], in_lane, strict=True)]
    return {
        **dict(_outcomes(values)),
        **dict(_histogram("resolve_latency_seconds", (), everywhere, values[_SUM] + values[_LANE_SUM])),
        **dict(_histogram("api_request_duration_seconds", _LANE_LABELS, in_lane, values[_LANE_SUM])),
        **dict(_lane_requests(values)),
    }


_LANE_LABELS = (("endpoint", RESOLVE_ENDPOINT), ("method", "GET"))
_OUTCOME_METRICS = {
    "resolve_cache_hit_total": ResolveOutcome.HIT,
    "resolve_cache_miss_total": ResolveOutcome.MISS,
    "resolve_negative_cache_hit_total": ResolveOutcome.NEGATIVE,
}


def _outcomes(values: Sequence[float]) -> Iterator[tuple[SampleKey, float]]:
    hits, unchanged, negative = (values[cell] for cell in _LANE_STATUS.values())
    in_lane = {ResolveOutcome.HIT: hits + unchanged, ResolveOutcome.NEGATIVE: negative}
    counts = {outcome: values[outcome] + in_lane.get(outcome, 0.0) for outcome in ResolveOutcome}
    yield ("resolve_requests_total", ()), sum(counts.values())
    for name, outcome in _OUTCOME_METRICS.items():
        yield (name, ()), counts[outcome]


def _lane_requests(values: Sequence[float]) -> Iterator[tuple[SampleKey, float]]:
    for status, cell in _LANE_STATUS.items():
        yield ("api_requests_total", (*_LANE_LABELS, ("status_code", str(status)))), values[cell]


def _histogram(
    name: str, labels: tuple[tuple[str, str], ...], counts: Sequence[float], total: float
) -> Iterator[tuple[SampleKey, float]]:
    """Yield a histogram's samples. A metric with fewer buckets than ours takes only those that it has."""
    up_to = list(accumulate(counts))
    for bound, count in zip((*RESOLVE_BUCKETS, float("inf")), up_to, strict=True):
        le = floatToGoString(bound)  # type: ignore[no-untyped-call] # the library leaves it untyped
        yield (f"{name}_bucket", tuple(sorted((*labels, ("le", le))))), count
    yield (f"{name}_count", labels), up_to[-1]
    yield (f"{name}_sum", labels), total


def _mapped(path: Path) -> mmap.mmap:
    """Return the file's memory: it goes on where an earlier worker of the same index stopped."""
    with path.open("a+b") as file:
        if os.fstat(file.fileno()).st_size != _CELLS.size:
            # Written, not truncated to size: a full disk must fail here, not as SIGBUS at some later count.
            file.truncate(0)
            file.write(bytes(_CELLS.size))
            file.flush()
        return mmap.mmap(file.fileno(), _CELLS.size)
