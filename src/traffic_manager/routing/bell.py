"""Wakes a thread that waits for a socket at the same time: an event with a file descriptor."""

from __future__ import annotations

import socket
from contextlib import suppress


class Bell:
    """Rung from any thread, heard by the one that polls `fileno()`. Ringing twice is ringing once."""

    def __init__(self) -> None:
        # A pair of sockets and no eventfd, which only Linux has.
        self._ear, self._button = socket.socketpair()
        self._ear.setblocking(False)
        self._button.setblocking(False)
        self._is_rung = False

    def ring(self) -> None:
        """Make `fileno()` readable."""
        if not self._is_rung:
            self._is_rung = True
            with suppress(OSError):  # closed: nobody waits any more
                self._button.send(b"!")

    def take(self) -> bool:
        """Return whether it was rung since the last time, and be silent again."""
        # First: whoever rings from here on is heard now or next time, never lost.
        self._is_rung = False
        try:
            return bool(self._ear.recv(64))
        except BlockingIOError:
            return False

    def fileno(self) -> int:
        """Return the descriptor that is readable while the bell is rung."""
        return self._ear.fileno()

    def close(self) -> None:
        """Give the descriptors back."""
        self._ear.close()
        self._button.close()
