"""How long things took, counted in buckets that grow with the time: any number of them in the same small room."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

# 128 buckets for each doubling: a percentile is too high by less than one part in 128.
_DETAIL_BITS = 7
_DETAIL = 1 << _DETAIL_BITS
_LONGEST_US = (1 << 36) - 1  # 19 hours
_BUCKETS = (36 - _DETAIL_BITS + 1) * _DETAIL


class Histogram:
    """Durations in microseconds. `count` of them, `longest_us` exactly."""

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * _BUCKETS))
        self.count = 0
        self.longest_us = 0

    def add(self, duration_us: int) -> None:
        """Count one; less than nothing is nothing."""
        duration_us = min(max(duration_us, 0), _LONGEST_US)
        shift = max(0, duration_us.bit_length() - _DETAIL_BITS - 1)
        self._buckets[shift * _DETAIL + (duration_us >> shift)] += 1
        self.count += 1
        if duration_us > self.longest_us:
            self.longest_us = duration_us

    def merge(self, other: Histogram) -> None:
        """Count all of *other*, too."""
        for number, counted in enumerate(other._buckets):
            if counted:
                self._buckets[number] += counted
        self.count += other.count
        self.longest_us = max(self.longest_us, other.longest_us)

    def percentile_us(self, percent: float) -> int | None:
        """Return below or at which duration *percent* of 100 lie; None of nothing."""
        below = 0
        for upper_us, counted in self.counts():
            below += counted
            if below * 100 >= percent * self.count:
                return min(upper_us, self.longest_us)
        return None

    def counts(self) -> Iterator[tuple[int, int]]:
        """Yield the longest duration of each bucket that is not empty, and how many are in it; shortest first."""
        for number, counted in enumerate(self._buckets):
            if counted:
                shift = max(0, number // _DETAIL - 1)
                yield ((number - shift * _DETAIL + 1) << shift) - 1, counted
