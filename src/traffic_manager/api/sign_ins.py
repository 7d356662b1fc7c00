"""How many wrong credentials may come from one address: keys cannot be guessed, but who tries makes work and noise.

A good credential is let in from any address: else whoever shares one with a guesser could be kept out by them.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from traffic_manager.api.origin import place_of
from traffic_manager.errors import TooManyFailedSignIns

_WINDOW_S = 60.0
# Addresses that are counted apart in a minute; all others count as one.
_MOST_ADDRESSES = 10_000
_OTHERS = ""


class FailedSignIns:
    """Counts failures, of which *most* a minute may come from one address; None: any number. *now*: seconds."""

    def __init__(self, most: int | None, now: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._now = now
        self._since = now()
        self._of_address: dict[str, int] = {}

    def count(self, address: str) -> None:
        """Count one from *address*. Raises TooManyFailedSignIns if that is more than may be."""
        if self._most is None:
            return
        now = self._now()
        if now - self._since >= _WINDOW_S:
            self._since, self._of_address = now, {}
        place = place_of(address)
        if place not in self._of_address and len(self._of_address) >= _MOST_ADDRESSES:
            place = _OTHERS
        count = self._of_address.get(place, 0) + 1
        self._of_address[place] = count
        if count > self._most:
            raise TooManyFailedSignIns(self._most, max(1, round(self._since + _WINDOW_S - now)))
