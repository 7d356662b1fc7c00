"""A server's processes, as the one who started them sees them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEEPER = Path(__file__).with_name("keeper.py")
END_TIMEOUT_S = 30.0  # More than the keeper's own grace.


@dataclass(frozen=True)
class Account:
    """Who a server runs as."""

    uid: int
    gid: int


class KeptProcess:
    """A running server with all its children, which ends when this process ends, in whatever way.

    It may be started and used in any thread. *log_path* gets all it writes. *remove_when_orphaned* is the
    folder to remove if this process ends without having ended the server.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        remove_when_orphaned: Path,
    ) -> None:
        order = {
            "owner_pid": os.getpid(),
            "command": [str(part) for part in command],
            "cwd": str(log_path.parent),
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "stop_signal": stop_signal,
            "remove_when_orphaned": str(remove_when_orphaned),
        }
        with log_path.open("ab") as log:
            self._keeper = subprocess.Popen(
                # -I: no module beside the keeper may stand in for one of the standard library.
                [sys.executable, "-I", "-S", str(KEEPER), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and we tell the server.
            )
        self.pid = int(self._hear() or 0)

    def is_running(self) -> bool:
        return self._keeper.poll() is None

    def stop(self) -> None:
        """End the server in good order, or by force if that takes more than ten seconds."""
        self._tell("stop")
        self._wait_for_end()

    def kill(self) -> None:
        """End all the server's processes with SIGKILL. They are gone when this returns."""
        self._tell("kill")
        self._wait_for_end()

    def freeze(self) -> None:
        """Stop all the server's processes with SIGSTOP. They stand still when this returns."""
        self._tell("freeze")

    def thaw(self) -> None:
        self._tell("thaw")

    def _tell(self, word: str) -> None:
        """Have *word* done. Nothing happens if the server ended by itself."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._keeper.stdin.write(f"{word}\n".encode())
            self._keeper.stdin.flush()
            self._hear()

    def _hear(self) -> bytes:
        """Return the keeper's next line, empty once it has ended."""
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline().strip()

    def _wait_for_end(self) -> None:
        self._keeper.wait(END_TIMEOUT_S)
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            assert pipe is not None
            # Closing flushes, and the keeper may have gone before it read.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
