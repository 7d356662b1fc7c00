"""Keeps one server, so that nothing of it outlives the process that wanted it.

`process.py` starts this file as a program of its own. It starts the server, does what its owner writes to its
standard input (`stop`, `kill`, `freeze`, `thaw`), and ends all the server's processes when the owner is gone,
however it went.

Why not PR_SET_PDEATHSIG alone: it fires when the *thread* that started the server ends, the server's children
do not inherit it, and it leaves frozen ones behind. PostgreSQL's backends also leave the process group.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 10.0
LIBC = ctypes.CDLL(None, use_errno=True)


class Order(NamedTuple):
    """What the owner asks for, as JSON in the first argument."""

    owner_pid: int
    command: list[str]
    cwd: str
    uid: int | None
    gid: int | None
    stop_signal: int
    remove_when_orphaned: str


class OwnerGone(Exception):
    """The owner ended, or let go of its end of the pipe."""


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    _take_charge()
    try:
        server = _launch(order)
        print(server, flush=True)
        _obey(order, server)
    except OwnerGone:
        _sweep()
        shutil.rmtree(order.remove_when_orphaned, ignore_errors=True)
    finally:
        _sweep()


def _take_charge() -> None:
    # Orphans of the server become children of this process, so that none can be missed in the end.
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The owner's thread may have blocked signals, and the server would inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for signal_number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signal_number, _end)


def _end(signal_number: int, _frame: Any) -> NoReturn:  # Any: only a type checker knows FrameType
    sys.exit(128 + signal_number)


def _launch(order: Order) -> int:
    """Start the server and return its process id. What it writes goes to our standard error, the log."""
    keeper = os.getpid()

    def die_with_keeper() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)

    server = subprocess.Popen(
        order.command,
        cwd=order.cwd,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=order.uid,
        group=order.gid,
        extra_groups=None if order.uid is None else [],
        preexec_fn=die_with_keeper,
        start_new_session=True,
    )
    return server.pid


def _obey(order: Order, server: int) -> None:
    """Do what the owner says until the server has ended. Raises OwnerGone."""
    server_fd, owner_fd = os.pidfd_open(server), _owner_fd(order.owner_pid)
    events = select.poll()
    for fd in (0, server_fd, owner_fd):
        events.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in events.poll()}
        if server_fd in ready:
            return
        word = b"" if owner_fd in ready else os.read(0, 64).strip()
        if word in (b"stop", b""):
            _stop(server, server_fd, order.stop_signal)
        if word in (b"stop", b"kill"):
            return
        if word == b"":
            raise OwnerGone
        _freeze() if word == b"freeze" else _thaw()
        print("done", flush=True)


def _owner_fd(owner_pid: int) -> int:
    """Return what becomes readable when the owner ends. Raises OwnerGone."""
    try:
        owner_fd = os.pidfd_open(owner_pid)
    except ProcessLookupError:
        raise OwnerGone from None
    # Asked afterwards, because the number may belong to somebody else by now.
    if os.getppid() != owner_pid:
        raise OwnerGone
    return owner_fd


def _stop(server: int, server_fd: int, stop_signal: int) -> None:
    """Give the server GRACE_S to end in good order; the sweep ends what is left."""
    _thaw()
    os.kill(server, stop_signal)
    ended = select.poll()
    ended.register(server_fd, select.POLLIN)
    ended.poll(GRACE_S * 1000)


def _freeze() -> None:
    """Stop all the server's processes, also those it was just starting."""
    while running := [pid for pid, state in _descendants() if state not in "TtZX"]:
        _signal(running, signal.SIGSTOP)
        time.sleep(0.001)


def _thaw() -> None:
    _signal([pid for pid, _ in _descendants()], signal.SIGCONT)


def _sweep() -> None:
    """End every process of the server, and wait until none is left."""
    try:
        while True:
            _signal([pid for pid, _ in _descendants()], signal.SIGKILL)
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _signal(pids: list[int], signal_number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            continue  # It ended since we looked.


def _descendants() -> list[tuple[int, str]]:
    """Return process ids and states (T: stopped, Z: ended) of all below this process, parents first."""
    children: dict[int, list[tuple[int, str]]] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        state, parent = _state_and_parent(pid)
        children.setdefault(parent, []).append((pid, state))
    found = children.get(os.getpid(), [])[:]
    for pid, _ in found:  # grows while we walk
        found.extend(children.get(pid, []))
    return found


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # The name in parentheses may hold spaces and parentheses itself.
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[1])


if __name__ == "__main__":
    main()
