"""The command line as a user runs it: a process of its own, against a real server on SQLite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from tests.node import Node
from traffic_manager.client import Client

COMMAND = (sys.executable, "-m", "traffic_manager.cli")
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # Any: JSON values
        """All of stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:  # Any: JSON values
        """Stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """Runs `traffic-manager` with TM_URL set to *url*."""

    def __init__(self, url: str) -> None:
        self._env = {"PATH": os.environ["PATH"], "TM_URL": url}

    def __call__(self, *words: str, stdin: str = "") -> Result:
        done = subprocess.run(
            [*COMMAND, *words], input=stdin, capture_output=True, text=True, env=self._env, timeout=TIMEOUT_S
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> RunningCommand:
        """Return the command while it runs."""
        return RunningCommand(
            subprocess.Popen(
                [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._env
            )
        )


class RunningCommand:
    """A command that has not ended yet. As a context manager it is killed in the end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> RunningCommand:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def line(self) -> str:
        """Return the next line of stdout as soon as it is there."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def note(self) -> str:
        """Return the next line of stderr as soon as it is there."""
        assert self._process.stderr is not None
        return self._process.stderr.readline().rstrip("\n")

    def closed_after_a_line(self) -> Result:
        """Read one line and close stdout, as `head -1` does; return what became of the command."""
        self.line()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        return Result(self._process.wait(TIMEOUT_S), "", self._process.stderr.read())

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> Result:
        """Press Ctrl-C, or send another signal, and return what became of it."""
        self._process.send_signal(number)
        out, err = self._process.communicate(timeout=TIMEOUT_S)
        return Result(self._process.returncode, out, err)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that all tests here share: each uses a tenant of its own. Tests that need an empty table, or
    kill the server, take `node`."""
    with Node(tmp_path_factory.mktemp("server")) as running:
        yield running.start()


@pytest.fixture
def tm(server: Node) -> CommandLine:
    """The command line for the shared server."""
    return CommandLine(server.url)


@pytest.fixture
def client(server: Node) -> Iterator[Client]:
    """A client of the shared server, to arrange and to look."""
    with Client(server.url) as connected:
        yield connected


_tenants = count(1)


@pytest.fixture
def tenant() -> str:
    """A tenant of the shared server that only this test uses."""
    return f"tenant-{next(_tenants)}"
