"""Keeps the parent's table on disk now and then, by a child process that sees it as it was at the fork: writing a
million routes takes seconds, and the parent has workers to look after.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import structlog

from traffic_manager.routing.follower import Beside
from traffic_manager.routing.mirror import Mirror
from traffic_manager.snapshot import Snapshot, SnapshotFile

SAVE_EVERY_S = 30.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

log = structlog.get_logger(__name__)


class Saving:
    """Saves to *path* what was read from the database *source*."""

    def __init__(self, path: Path, source: str) -> None:
        self._file = SnapshotFile(path, source)
        self._child: int | None = None
        self._due = 0.0
        self._saved: tuple[str, int] | None = None  # epoch and revision
        self._is_lost = False  # what the child writes is of a history that is lost

    def recall(self) -> Snapshot | None:
        """Return what was saved last, None if nothing usable is there."""
        found = self._file.read()
        if found:
            log.info("snapshot_loaded", revision=found.table.head.revision, routes=len(found.table.entries))
        return found

    def save_if_due(self, mirror: Mirror, beside: Beside) -> None:
        """Save *mirror*, which is at the head now, in the background, if it has changed and it is time."""
        if self._child is not None or time.monotonic() < self._due or not self._is_news(mirror):
            return
        self._due = time.monotonic() + SAVE_EVERY_S
        self._saved = _place(mirror)
        # Until the child has its own, it would run the parent's handlers, and stop the workers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._child = os.fork()
        if self._child == 0:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os._exit(0 if self._try_to_write(mirror, beside, time.time()) else 1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def save_last(self, mirror: Mirror, beside: Beside, staleness_s: float) -> None:
        """Save *mirror* here and now, if it has changed: the node stops."""
        if self._child is not None:
            _, status = os.waitpid(self._child, 0)
            self.ended(self._child, os.waitstatus_to_exitcode(status))
        if self._is_news(mirror):
            self._try_to_write(mirror, beside, time.time() - staleness_s)

    def ended(self, pid: int, exit_code: int) -> None:
        """Take note that a child has ended."""
        if pid != self._child:
            return
        self._child = None
        if exit_code:
            self._saved = None
        if self._is_lost:
            self._is_lost = False
            self.forget()

    def forget(self) -> None:
        """Remove what was saved, and save anew at once: it is of a history that is lost, and a node that starts
        without its database would answer from it."""
        self._is_lost = self._child is not None
        self._saved, self._due = None, 0.0
        self._file.remove()

    def _is_news(self, mirror: Mirror) -> bool:
        """Return whether there is something to save: of a bounded mirror nothing is, it knows only a part."""
        return mirror.is_complete and _place(mirror) != self._saved

    def _try_to_write(self, mirror: Mirror, beside: Beside, seen_at: float) -> bool:
        try:
            self._file.write(mirror, beside, seen_at)
        except Exception as error:  # the node goes on without it, and the one before is still there
            log.error("snapshot_failed", reason=str(error), exc_info=not isinstance(error, OSError))
            return False
        return True


def _place(mirror: Mirror) -> tuple[str, int] | None:
    return (mirror.head.epoch, mirror.applied) if mirror.head else None
