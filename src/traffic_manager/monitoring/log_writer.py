"""Brings finished log lines to a file descriptor without letting its reader hold up a request.

A pipe whose reader has stopped takes about 64 KiB, then every write to it blocks. So a server's worker calls
`start`: from then on a thread writes, requests only queue, and when 4,000 lines wait, further ones are
counted and dropped; `log_lines_dropped` tells how many as soon as lines flow again. Before `start` and after
`stop` a line is written at once by whoever logs it, and a blocked reader blocks the caller: right for
commands. The parent of the workers has to stay without threads to fork, and must replace workers whoever reads:
it calls `never_wait`, and drops lines that would not be taken at once. A killed process loses the lines that
wait, which are none unless the reader is slow.

Each line is one `write`. Several workers share standard output, and up to 4,096 bytes (Linux) a pipe takes a
write whole; a longer line can be torn by another worker's.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
from queue import Empty, SimpleQueue

import structlog

_MAX_WAITING_LINES = 4000

log = structlog.get_logger(__name__)


class LogWriter:
    """Writes lines to *fd*; never raises."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: SimpleQueue[bytes | None] | None = None
        self._thread: threading.Thread | None = None
        self._is_blocked = False
        self._waits = True
        self._untold = 0  # lines dropped since the log told of some
        self.dropped = 0

    def write(self, line: bytes) -> None:
        """Write *line*, which has no line break in it and gets one here."""
        queue = self._queue
        if queue is None:
            self._emit_now(line)
        elif queue.qsize() < _MAX_WAITING_LINES:
            queue.put(line)
        else:
            self._drop()

    def never_wait(self) -> None:
        """From now on drop a line, while no thread writes, if it would not be taken at once."""
        self._waits = False

    def start(self) -> None:
        """From now on write on a thread. Call after the fork; a child that is forked later starts without."""
        if self._queue is not None:
            return
        self._queue = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(self._queue,), name="log", daemon=True)
        self._thread.start()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self._forget_thread)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Write what waits, then write at once again. Lines that cannot be written in time are lost, and all
        later ones too, because the reader has stopped for good."""
        thread, queue = self._thread, self._queue
        if thread is None or queue is None:
            return
        atexit.unregister(self.stop)
        queue.put(None)
        thread.join(timeout_s)
        self._is_blocked = thread.is_alive()
        self._forget_thread()
        for line in _waiting(queue):
            self._emit(line)
        queue.put(None)  # again, for a thread that hangs still

    def _forget_thread(self) -> None:
        self._thread = self._queue = None

    def _run(self, queue: SimpleQueue[bytes | None]) -> None:
        while (line := queue.get()) is not None:
            self._emit(line)
            if not self._is_blocked and queue.qsize() < _MAX_WAITING_LINES // 2:
                self._tell_of_dropped()

    def _emit_now(self, line: bytes) -> None:
        if not (self._waits or select.select([], [self._fd], [], 0)[1]):
            self._drop()
            return
        self._emit(line)
        if not self._waits:
            self._tell_of_dropped()

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

    def _tell_of_dropped(self) -> None:
        untold, self._untold = self._untold, 0
        if untold:
            log.warning("log_lines_dropped", lines=untold)

    def _emit(self, line: bytes) -> None:
        rest = b"" if self._is_blocked else line + b"\n"
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError:  # the reader is gone or the disk full: there is nowhere to say so
            self._drop()

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # another owner of the pipe made it non-blocking
            select.select([], [self._fd], [], 1.0)
            return 0


def _waiting(queue: SimpleQueue[bytes | None]) -> list[bytes]:
    lines = []
    try:
        while True:
            if (line := queue.get_nowait()) is not None:
                lines.append(line)
    except Empty:
        return lines
