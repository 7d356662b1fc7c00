"""Ends database calls that outlive their deadline by shutting their socket down.

psycopg waits for an answer as long as the connection lives, and a frozen server (SIGSTOP, a hung disk) keeps
it alive. One thread watches all calls of a worker; a call costs a dictionary entry.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

# A deadline is kept to within this many seconds.
_PRECISION_S = 0.05


class HasSocket(Protocol):
    """A connection over a socket."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""


class Watchdog:
    """Watches the calls between `start` and `stop`."""

    def __init__(self) -> None:
        self._deadlines: dict[HasSocket, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; calls still running are no longer watched."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def hurry(self) -> None:
        """Let the calls under way end now. For signal handlers: takes no lock, for the thread that it interrupts
        may hold it."""
        for connection in list(self._deadlines):
            self._deadlines[connection] = 0.0

    @contextmanager
    def limit(self, connection: HasSocket, seconds: float) -> Iterator[None]:
        """Cut *connection* if the block takes longer than *seconds*; its driver then raises."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(connection, None)

    def _watch(self) -> None:
        while not self._stopped.wait(_PRECISION_S):
            now = time.monotonic()
            # Under the lock no call ends, and lends its connection on, while we cut it.
            with self._lock:
                for connection in [c for c, deadline in self._deadlines.items() if deadline < now]:
                    del self._deadlines[connection]
                    _cut(connection)


def _cut(connection: HasSocket) -> None:
    # Whatever a driver raises for a connection that has closed meanwhile: the call has ended then.
    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
