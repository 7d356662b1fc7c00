"""Brings SQLite's write-ahead log into its file, each second, on a thread and a connection of its own.

SQLite would do it by itself in the middle of some commit: that held writers up for 20 to 30 ms.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress

_EVERY_S = 1.0
# 64 MiB in pages of 4 KiB: readers look things up in the log, and the file keeps its largest size.
_MAX_FRAMES = 16_384
_CHECKPOINT = "pragma wal_checkpoint(passive)"  # waits for nobody, and lets nobody wait


class Checkpointer:
    """Works between `start` and `stop`, on connections that *connect* opens. Nobody writes who does not have
    *write_lock*."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], write_lock: threading.Lock) -> None:
        self._connect = connect
        self._write_lock = write_lock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpointer", daemon=True)

    @property
    def is_running(self) -> bool:
        """True if nobody else needs to write checkpoints."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the last connection to the file that is closed makes the last checkpoint."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            # A file that is locked, gone or on a full disk: whoever reads or writes it will say so.
            with suppress(sqlite3.Error), closing(self._connect()) as connection:
                while not self._stopped.wait(_EVERY_S):
                    self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        _, frames, _ = connection.execute(_CHECKPOINT).fetchone()
        if frames > _MAX_FRAMES:
            # The log begins anew when all of it is in the file, which never happens while writers are faster.
            with self._write_lock:
                connection.execute(_CHECKPOINT).fetchone()
