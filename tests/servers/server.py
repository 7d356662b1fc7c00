"""What the three servers have in common: start, stop, kill, freeze, and start again where they were."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from .ports import HOST, free_port, is_free
from .process import Account, KeptProcess

POLL_INTERVAL_S = 0.02


class ServerStartError(RuntimeError):
    """A server did not become usable; the message holds the end of its log."""


class Server(ABC):
    """A real server on a free port of this machine, with its data in a temporary folder.

    *settings* are the server's own, and win over ours. `start()` after `stop()` or `kill()` continues on the
    same port with the same data; `close()` removes them. As a context manager it starts, and closes in the
    end. `port` holds before the first start too, unless another process takes it in between.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_timeout_s: ClassVar[float] = 90.0  # on a busy machine

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self.host = HOST
        self.port = free_port()
        self.settings = dict(settings or {})
        self.folder = _temporary_folder(self.name)
        self._has_started = False
        self._process: KeptProcess | None = None

    @abstractmethod
    def env(self) -> dict[str, str]:
        """Return the environment variables that lead Traffic Manager here."""

    @abstractmethod
    def _create(self) -> None:
        """Make the data in the empty folder, once."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return the server's command line for the present ports."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Return whether this very server does its work, and not another one on its port."""

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running()

    @property
    def pid(self) -> int:
        """The main process. Raises RuntimeError if the server is not running."""
        return self._running().pid

    def start(self) -> Self:
        """Return when the server is usable. Nothing happens if it runs already. Raises ServerStartError."""
        if self.is_running:
            return self
        atexit.register(self._close_at_exit, os.getpid())
        try:
            self._create_once()
            self._start_on_a_free_port()
        except BaseException:
            self.kill()
            raise
        self._has_started = True
        return self

    def stop(self) -> None:
        """End the server in good order. Data, folder and port stay for the next `start()`."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End all the server's processes at once with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()

    def freeze(self) -> None:
        """Halt all the server's processes: connections stay open, and nothing answers."""
        self._running().freeze()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._running().thaw()

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        atexit.unregister(self._close_at_exit)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_at_exit(self, owner_pid: int) -> None:
        # A forked child also runs this when it exits, and must leave its parent's server alone.
        if os.getpid() == owner_pid:
            self.close()

    def _running(self) -> KeptProcess:
        if self._process is None or not self._process.is_running():
            raise RuntimeError(f"{self.name} is not running")
        return self._process

    def _create_once(self) -> None:
        if self.folder.exists():
            return
        self.folder.mkdir(mode=0o700)
        try:
            self._create()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def _start_on_a_free_port(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self._become_ready(deadline):
            if all(map(is_free, self._ports())):
                raise ServerStartError(f"{self.name} ended while starting:\n{self._end_of_log()}")
            if self._has_started or time.monotonic() > deadline:
                raise ServerStartError(f"{self.name} needs port {self._ports()}, which another process holds")
            self._choose_ports()

    def _become_ready(self, deadline: float) -> bool:
        """Start the server and return True when it is usable, False if it ended instead."""
        self._process = process = self._launch()
        while process.is_running():
            if self._is_ready():
                return True
            if time.monotonic() > deadline:
                seconds = self.start_timeout_s
                raise ServerStartError(f"{self.name} not ready in {seconds} s:\n{self._end_of_log()}")
            time.sleep(POLL_INTERVAL_S)
        return False

    def _launch(self) -> KeptProcess:
        return KeptProcess(
            self._command(),
            log_path=self.log_path,
            account=self._account(),
            stop_signal=self.stop_signal,
            remove_when_orphaned=self.folder,
        )

    def _account(self) -> Account | None:
        """Return whom the server runs as; None stands for ourselves."""
        return None

    def _ports(self) -> list[int]:
        return [self.port]

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _end_of_log(self) -> str:
        return self.log_path.read_text(errors="replace")[-2000:] if self.log_path.exists() else "(no log)"


def _temporary_folder(name: str) -> Path:
    """Return a path that does not exist yet: a server that never starts leaves nothing behind."""
    return Path(tempfile.gettempdir()) / f"traffic-manager-{name}-{secrets.token_hex(6)}"
