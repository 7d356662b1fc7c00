"""The parent of several worker processes: forks, replaces the dead and the wedged, stops them all.

The parent has no other thread and no open connection when it forks, so that forking is safe. The children inherit
the listening socket: with SO_REUSEPORT a dying worker would reset the connections that wait in its own queue.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Protocol

import structlog

from traffic_manager.monitoring.heartbeats import Heartbeats
from traffic_manager.monitoring.log_level import SIGNALS

# A worker that ends with this could not start, and neither could its like: the settings have to change.
EXIT_REFUSED = 78
# A worker that lived this long was well; one that did not waits twice as long as the one before it. Longer than a
# start that fails takes: what kills workers later is not cured by having fewer of them.
_WELL_AFTER_S = 1.5
_RESTART_FIRST_S = 0.1
_RESTART_MOST_S = 30.0
# An event loop that has not run for so long is wedged: clients of its connections wait for nothing.
_WEDGED_AFTER_S = 10.0
# Until its event loop first runs a worker may take longer: many of them start at the same time.
_BIRTH_S = 30.0
# A round takes a moment, or the length of a table's load. After more, the whole machine may have been halted.
_HALTED_AFTER_S = 2.0
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
_ALL = (*_STOPS, *SIGNALS)

log = structlog.get_logger(__name__)


class Estate(Protocol):
    """What the parent keeps for its workers."""

    def tend(self) -> None:
        """Do what is due; called before the first fork and then all the time."""

    def before_fork(self) -> None:
        """Put away what processes must not share."""

    def buried(self, index: int) -> None:
        """The worker of this index has ended."""

    def ended(self, pid: int, exit_code: int) -> None:
        """A child that is no worker has ended."""

    def close(self) -> None:
        """Put everything away; all workers have ended."""

    def stop(self) -> None:
        """Let `tend` end soon. Called by signal handlers."""


class Parent:
    """Runs *count* processes of *work*, which gets its index and returns its exit code, with heartbeats in
    *hearts*."""

    def __init__(
        self, count: int, work: Callable[[int], int], estate: Estate, hearts: Heartbeats, patience_s: float
    ) -> None:
        self._count = count
        self._work = work
        self._estate = estate
        self._hearts = hearts
        self._patience_s = patience_s
        self._pid = os.getpid()
        self._round_at = self._awake_since = time.monotonic()
        self._index_of: dict[int, int] = {}
        self._born: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._delay_s: dict[int, float] = {}
        self._is_stopping = False
        self._exit_code = 0

    def run(self) -> int:
        """Return the exit code when all workers have ended after SIGTERM or SIGINT, or could not start."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._estate.tend()
        for index in range(self._count):
            self._fork(index)
        while self._index_of or (self._due and not self._is_stopping):
            self._reap()
            self._restart_due()
            self._end_wedged()
            if not self._is_stopping:
                self._estate.tend()
        self._estate.close()
        return self._exit_code

    def _fork(self, index: int) -> None:
        sys.stdout.flush()
        self._estate.before_fork()
        self._hearts.expect(index, _BIRTH_S)
        parent = os.getpid()
        # Until the child has handlers of its own and we know its pid, a signal would reach the wrong ones.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
        if self._is_stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)
            return
        pid = os.fork()
        if pid == 0:
            _end_with(parent)
            os._exit(_run_child(self._work, index))
        self._index_of[pid] = index
        self._born[index] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)

    def _reap(self) -> None:
        """Wait a moment for a worker to end, and deal with it."""
        pid, status = os.waitpid(-1, os.WNOHANG) if self._index_of else (0, 0)
        if pid == 0:
            time.sleep(0.02)
            return
        code = os.waitstatus_to_exitcode(status)
        index = self._index_of.pop(pid, None)
        if index is None:
            self._estate.ended(pid, code)
            return
        self._estate.buried(index)
        # A replacement's refusal is its own: the others have started, and answer from memory.
        if code == EXIT_REFUSED and index not in self._delay_s:
            self._exit_code = 1
            self._stop()
        elif not self._is_stopping:
            log.error("worker_died", worker=index, exit_code=code)
            self._plan_restart(index)

    def _plan_restart(self, index: int) -> None:
        lived_s = time.monotonic() - self._born[index]
        delay_s = _RESTART_FIRST_S if lived_s > _WELL_AFTER_S else self._delay_s.get(index, _RESTART_FIRST_S)
        self._due[index] = time.monotonic() + delay_s
        self._delay_s[index] = min(_RESTART_MOST_S, delay_s * 2)

    def _restart_due(self) -> None:
        now = time.monotonic()
        for index in [i for i, due in self._due.items() if due <= now and not self._is_stopping]:
            del self._due[index]
            self._fork(index)

    def _end_wedged(self) -> None:
        """Kill workers whose event loops stand still; they are reaped and replaced like others."""
        now = time.monotonic()
        if now - self._round_at > _HALTED_AFTER_S:
            self._awake_since = now  # if we were halted, so were they
        self._round_at = now
        for pid, index in self._index_of.items():
            silence_s = min(self._hearts.silence_s(index), now - self._awake_since)
            if silence_s > _WEDGED_AFTER_S and not self._is_stopping:
                log.error("worker_wedged", worker=index, pid=pid, silent_s=round(silence_s, 1))
                self._hearts.expect(index, _BIRTH_S)
                os.kill(pid, signal.SIGKILL)  # even if it is stopped

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_stopping:
            self._signal_all(signal.SIGKILL)  # asked twice: at once
        else:
            self._stop()

    def _stop(self) -> None:
        """Tell every worker once: told twice, it would drop what it is finishing."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._hearts.stop_all()
        self._estate.stop()
        self._signal_all(signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: self._signal_all(signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, self._patience_s)

    def pass_on(self, number: int) -> None:
        """Tell every worker what we were told. Called by handlers of signals, which workers inherit."""
        if os.getpid() == self._pid:
            self._signal_all(number)

    def _signal_all(self, number: int) -> None:
        for pid in self._index_of:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _end_with(parent: int) -> None:
    """Have this worker stopped if its parent dies, even by SIGKILL."""
    with suppress(OSError, AttributeError):  # other systems than Linux have no such thing
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _run_child(work: Callable[[int], int], index: int) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)
    try:
        return work(index)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        log.exception("worker_failed", worker=index)
        return 1
