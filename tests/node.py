"""A real server of ours for tests: `traffic-manager serve` as a user starts it, over real HTTP."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2

import traffic_manager
from tests.servers.ports import HOST, free_port

# A start is a second of work, and a busy machine may take long to find it.
START_TIMEOUT_S = 90.0
# The servers run the code that the tests import: `tests.promises.seeded` tests copies of the tree.
SOURCE = str(Path(traffic_manager.__file__).parents[1])
Found = TypeVar("Found")
# Settings of the shell that runs the tests must not reach the servers under test.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


def wait_until(condition: Callable[[], Found], timeout_s: float = 30.0, what: str = "the condition") -> Found:
    """Return the first true value of *condition*, asked every 20 ms. Fails the test when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s} s"
        time.sleep(0.02)


class Node:
    """One server, with its data and log under *folder*. *settings* are environment variables. With TLS, *trust* is
    whom callers trust and what they show. *program* is the command line's own, else that of this tree."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        trust: ssl.SSLContext | bool = False,
        program: Sequence[str] = (sys.executable, "-m", "traffic_manager.cli"),
    ) -> None:
        self.port = free_port()
        self.url = f"{'https' if trust else 'http'}://{HOST}:{self.port}"
        self._trust = trust
        self._program = program
        self.log_path = folder / f"node-{self.port}.log"
        self.folder = folder
        own = {
            "API_HOST": HOST,
            "API_PORT": str(self.port),
            "DB_PATH": str(folder / "routes.db"),
            "LOG_FORMAT": "json",
            "PYTHONPATH": SOURCE,
        }
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self.environment = {**inherited, **own, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, wait_ready: bool = True) -> Node:
        """Start it, and by default wait until it is ready. `--migrate` is for PostgreSQL."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, "serve", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait_ready:
            wait_until(self.is_ready, START_TIMEOUT_S, f"readiness of the node; its log:\n{self.log()}")
        return self

    def stop(self, timeout_s: float = 40.0) -> int:
        """End it with SIGTERM; return its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it and its workers with SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process that was started: the parent, if there are several workers."""
        assert self._process is not None
        return self._process.pid

    def wait_for_exit(self, timeout_s: float = 20.0) -> int:
        """Return the exit code of a node that ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def is_running(self) -> bool:
        """Return whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Return whether it, and nobody else on its port, says that it is ready; fails if it has ended."""
        assert self.is_running(), f"the node ended by itself; its log:\n{self.log()}"
        if "listening" not in self.log():
            return False
        try:
            answer = httpx2.get(f"{self.url}/health/ready", timeout=2.0, verify=self._trust)
        except httpx2.HTTPError:
            return False
        return answer.status_code == 200

    def client(self, timeout_s: float = 10.0) -> httpx2.Client:
        """Return a client of this node's API; close it."""
        return httpx2.Client(base_url=self.url, timeout=timeout_s, verify=self._trust)

    def log(self) -> str:
        """Return what it has logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def a_key(
    service: str = "payments", version: str = "v2", env: str = "prod", tenant: str = "team-a"
) -> dict[str, str]:
    """Return the four names of a route, as bodies and queries take them."""
    return {"tenant": tenant, "service": service, "env": env, "version": version}


def a_route(url: str = "https://payments.example.com/v2", **names: str) -> dict[str, str]:
    """Return the body that creates a route."""
    return {**a_key(**names), "url": url}


def path_of(key: Mapping[str, str]) -> str:
    """Return the path of a route."""
    return f"/api/v1/routes/{key['tenant']}/{key['service']}/{key['env']}/{key['version']}"


def resolve(client: httpx2.Client, key: Mapping[str, str], **headers: str) -> httpx2.Response:
    """Resolve *key*, with headers as `tm_min_revision="..."`."""
    names = {name: key[name] for name in ("tenant", "service", "env", "version")}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get("/api/v1/routes/resolve", params=names, headers=given)


Json = dict[str, Any]


def workers_of(node: Node) -> list[int]:
    """Return the workers of a node of several, without a child that saves the parent's table: that one does not
    catch SIGTERM."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return [int(pid) for pid in children if _catches_sigterm(pid)]


def _catches_sigterm(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = {name: int(mask, 16) for name, mask in re.findall(r"(SigBlk|SigCgt):\s+(\w+)", status)}
    return bool(masks["SigCgt"] & ~masks["SigBlk"] & (1 << (signal.SIGTERM - 1)))
