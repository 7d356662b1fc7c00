"""What workers and their parent tell each other, in memory that they share: when the event loop of each worker last
ran, and that the whole node stops."""

from __future__ import annotations

import mmap
from time import monotonic


class Heartbeats:
    """A cell for each of *count* workers. Make it before they are forked."""

    def __init__(self, count: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, 8 * (count + 1))).cast("d")
        self._stopping = count  # the cell behind those of the workers

    def expect(self, worker: int, within_s: float) -> None:
        """Begin anew for a worker whose first beat may take *within_s* longer than others."""
        self._cells[worker] = monotonic() + within_s

    def beat(self, worker: int) -> None:
        """Record that *worker* runs."""
        self._cells[worker] = monotonic()

    def stop_all(self) -> None:
        """Record that all workers are told to stop. For signal handlers."""
        self._cells[self._stopping] = 1.0

    def are_all_stopping(self) -> bool:
        """Return whether all workers are told to stop, not one alone."""
        return self._cells[self._stopping] > 0

    def silence_s(self, worker: int) -> float:
        """Return how many seconds ago *worker* last said that it runs."""
        return monotonic() - self._cells[worker]
