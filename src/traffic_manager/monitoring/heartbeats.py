"""When the event loop of each worker last ran, in memory that workers share with their parent."""

from __future__ import annotations

import mmap
from time import monotonic


class Heartbeats:
    """A cell for each of *count* workers. Make it before they are forked."""

    def __init__(self, count: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, 8 * count)).cast("d")

    def expect(self, worker: int, within_s: float) -> None:
        """Begin anew for a worker whose first beat may take *within_s* longer than others."""
        self._cells[worker] = monotonic() + within_s

    def beat(self, worker: int) -> None:
        """Record that *worker* runs."""
        self._cells[worker] = monotonic()

    def silence_s(self, worker: int) -> float:
        """Return how many seconds ago *worker* last said that it runs."""
        return monotonic() - self._cells[worker]
