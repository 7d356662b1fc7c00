"""How long a fault is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phases:
    """How long each phase lasts, in seconds; *is_full*: whether what is repeated is repeated often."""

    base_s: float
    fault_s: float
    recovery_s: float
    is_full: bool = False

    def rounds(self, quick: int, full: int) -> int:
        """Return how often to repeat something."""
        return full if self.is_full else quick


FULL = Phases(10.0, 20.0, 20.0, is_full=True)
QUICK = Phases(3.0, 6.0, 5.0)
