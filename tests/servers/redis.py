"""A real Redis."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from . import programs
from .server import Server

DEFAULTS = {"save": "", "appendonly": "no"}
ANSWER_TIMEOUT_S = 2.0


class RedisServer(Server):
    """Redis that keeps nothing over a restart, unless *settings* say so: `{"appendonly": "yes"}`."""

    name = "redis"

    def env(self) -> dict[str, str]:
        return {"REDIS_HOST": self.host, "REDIS_PORT": str(self.port)}

    def flushall(self) -> None:
        """Remove every key of every database."""
        answer = self._ask("FLUSHALL")
        if answer != "+OK":
            raise RuntimeError(f"redis refused to remove its keys: {answer}")

    def _create(self) -> None:
        """Redis makes its own files."""

    def _command(self) -> Sequence[str | Path]:
        ours = {"bind": self.host, "port": str(self.port), "dir": str(self.folder)}
        settings = DEFAULTS | ours | self.settings
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [programs.redis_server(), *options]

    def _is_ready(self) -> bool:
        try:
            # Our process and no other: a server that holds our port would answer a ping as well.
            return f"process_id:{self.pid}\r\n" in self._ask("INFO server") and self._ask("PING") == "+PONG"
        except (OSError, RuntimeError):
            return False

    def _ask(self, command: str) -> str:
        """Return Redis's answer to *command*, in its wire format."""
        with socket.create_connection((self.host, self.port), timeout=ANSWER_TIMEOUT_S) as connection:
            # QUIT makes Redis close after the answer, so that it is whole when the stream ends.
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as answer:
                return answer.read().decode().removesuffix("+OK\r\n").strip("\r\n")
