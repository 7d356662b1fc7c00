"""A route cache in memory that forgets, lags and lies on demand. Passes the contract in `tests/cache`."""

from __future__ import annotations

from collections.abc import Mapping

from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import CachedRoute


class MemoryCache:
    """Keeps entries without end."""

    def __init__(self) -> None:
        self.is_away = False
        self.gets = 0
        self._entries: dict[RouteKey, CachedRoute] = {}

    async def get(self, key: RouteKey) -> CachedRoute | None:
        self.gets += 1
        return None if self.is_away else self._entries.get(key)

    async def put(self, key: RouteKey, entry: CachedRoute) -> None:
        if not self.is_away:
            self._entries[key] = entry

    def flush(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def image(self) -> Mapping[RouteKey, CachedRoute]:
        """Return all entries, to be restored later, as a dump on disk would."""
        return dict(self._entries)

    def restore(self, image: Mapping[RouteKey, CachedRoute]) -> None:
        """Go back to *image*."""
        self._entries = dict(image)
