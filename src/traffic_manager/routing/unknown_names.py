"""How much the database may be asked for names that have no route.

A mirror that is not complete has to look up every name that it does not hold, so a flood of made-up names would
reach the database. Each look-up takes from an allowance first, and gives it back if there is a route: real routes,
however many are looked up, cost nothing of it.
"""

from __future__ import annotations

from time import monotonic

from traffic_manager.errors import Busy


class UnknownNames:
    """An allowance of *per_second* look-ups without a result, a second's worth of them at once."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._filled_at = monotonic()
        self.refusals = 0

    def take(self) -> None:
        """Allow one look-up. Raises Busy if the allowance is used up."""
        now = monotonic()
        self._left = min(self._per_second, self._left + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._left < 1:
            self.refusals += 1
            raise Busy("too many names without a route are asked for, and this one is not known here")
        self._left -= 1

    def give_back(self) -> None:
        """Take note that the look-up found a route, or could not be made."""
        self._left += 1

    def spend(self, count: int) -> None:
        """Take note that a look-up of many names found no route for *count* of them. More than a second's allowance
        is not owed: one list of names that are gone must not keep everybody waiting."""
        self._left = max(-self._per_second, self._left - count)
