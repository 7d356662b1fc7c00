"""Which keys changed lately, and when each did last: what tells a value that is still good from one that was."""

from __future__ import annotations

from collections.abc import Iterable


class ChangedKeys:
    """The last change of every key that changed after revision `floor`: those of the last *most* changes, of up to
    twice as many keys, and of all changes if these are of few keys. In two generations, of which the older is
    dropped whole: so nothing is kept for each change, and a key that changes all the time takes one place."""

    def __init__(self, most: int, floor: int = 0, changes: Iterable[tuple[int, str]] = ()) -> None:
        self.floor = floor
        self._most = most
        self._last: dict[str, int] = {}
        self._older: dict[str, int] = {}
        self._older_until = floor  # the newest revision of the older generation
        for revision, key in changes:
            self.add(revision, key)

    def __contains__(self, key: str) -> bool:
        return key in self._last or key in self._older

    def add(self, revision: int, key: str) -> None:
        """Remember that *key* changed at *revision*, which is above all others."""
        self._last[key] = revision
        if len(self._last) >= self._most:
            self.floor, self._older_until = self._older_until, revision
            self._older, self._last = self._last, {}

    def last(self, key: str) -> int:
        """Return the revision of the last change of *key*, 0 if it is not above `floor`."""
        return self._last.get(key) or self._older.get(key, 0)
