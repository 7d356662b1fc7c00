"""What was used lately, in a bounded number of bytes. The lane keeps rendered answers and parsed heads so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Holds values of at most *limit_bytes*, as *size_of* weighs them with their keys.

    In two generations: when the young one has half of the bytes it becomes the old one, and what the old one
    held is dropped. What is found in the old one is young again, so that what is used often stays. That costs
    one look-up per use and no order to maintain.
    """

    def __init__(self, limit_bytes: int, size_of: Callable[[Key, Value], int]) -> None:
        self._half_bytes = limit_bytes // 2
        self._size_of = size_of
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._young_bytes = 0

    def get(self, key: Key) -> Value | None:
        """Return the value, None if it is not (any more) here."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keep *value*. One that would take a whole generation is not kept."""
        size = self._size_of(key, value)
        if size > self._half_bytes:
            return
        if self._young_bytes + size > self._half_bytes:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        # A key that was here already is counted twice until the generation ends: too much, never too little.
        self._young[key] = value
        self._young_bytes += size
