"""How long a run may take: the same scenarios, with more rounds and more routes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """*rounds* of *seconds* for each contender, tables of *sizes* routes, and at most *limit_s* in all."""

    name: str
    rounds: int
    seconds: float
    sizes: tuple[int, ...]
    limit_s: float


QUICK = Plan("quick", rounds=2, seconds=2, sizes=(10_000, 100_000), limit_s=300)
BENCH = Plan("bench", rounds=5, seconds=2, sizes=(10_000, 100_000), limit_s=580)
FULL = Plan("full", rounds=5, seconds=4, sizes=(10_000, 100_000, 1_000_000), limit_s=1_180)
