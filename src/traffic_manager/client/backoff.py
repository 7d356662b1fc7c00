"""How long to wait before the next attempt, so that many clients do not come back at the same moment."""

from __future__ import annotations

import random


def full_jitter_s(attempt: int, base_s: float = 0.2, cap_s: float = 10.0) -> float:
    """Return the seconds to wait after the failed *attempt* (from 0): anything between nothing and a limit
    that doubles with each attempt up to *cap_s*."""
    # The exponent is bounded, because 2.0 ** 1024 overflows after a long outage.
    return random.uniform(0, min(cap_s, base_s * 2.0 ** min(attempt, 32)))  # noqa: S311
