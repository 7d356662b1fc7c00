"""`python -m benchmarks.install`: bring what the benchmarks need: PostgreSQL, Redis, nginx, wrk and etcd.

All but etcd are Debian packages; etcd is built from its published Go module, pinned by `peers/etcd_server/go.sum`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.servers.install import found_or_installed
from tests.servers.programs import ROOT, NotInstalled, postgres, redis_server

ETCD = ROOT / ".cache" / "etcd"
_ETCD_SOURCE = Path(__file__).parent / "peers" / "etcd_server"
_BUILD_TIMEOUT_S = 600.0
# Where Debian keeps servers, and the Go distribution its compiler, if the shell does not know.
_MORE_FOLDERS = "/usr/sbin:/usr/local/go/bin"


def main() -> int:
    """Install what is missing and say what is there; 1 if something could not be brought."""
    steps = [_postgres, _redis, _nginx, _wrk, _etcd]
    problems = [problem for step in steps if (problem := _problem_of(step))]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


@cache
def program(name: str) -> str:
    """Return the path of the program *name*. Raises NotInstalled."""
    found = shutil.which(name) or shutil.which(name, path=_MORE_FOLDERS)
    if not found:
        raise NotInstalled(f"{name} is missing: run `python -m benchmarks.install`")
    return found


def etcd() -> Path:
    """Return the etcd server that was built here. Raises NotInstalled."""
    if not ETCD.exists():
        raise NotInstalled("etcd is missing: run `python -m benchmarks.install`")
    return ETCD


def versions() -> dict[str, str]:
    """Return the versions of the programs that we are measured with."""
    asked = {
        "nginx": [program("nginx"), "-v"],
        "etcd": [str(etcd()), "--version"],
        "wrk": [program("wrk"), "-v"],
    }
    asked["postgres"] = [str(postgres() / "postgres"), "--version"]
    return {name: _version(command) for name, command in asked.items()}


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _problem_of(step: Callable[[], Path]) -> str:
    try:
        print(f"found {step()}", flush=True)
    except NotInstalled as missing:
        return str(missing)
    return ""


def _postgres() -> Path:
    return found_or_installed(postgres, "postgresql")


def _redis() -> Path:
    return found_or_installed(redis_server, "redis-server")


def _nginx() -> Path:
    return found_or_installed(lambda: Path(program("nginx")), "nginx-light")


def _wrk() -> Path:
    return found_or_installed(lambda: Path(program("wrk")), "wrk")


def _etcd() -> Path:
    ETCD.parent.mkdir(exist_ok=True)
    with (ETCD.parent / "etcd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ETCD.exists():
            _build_etcd()
    return ETCD


def _build_etcd() -> None:
    """Make ETCD in one step, so that a build that was cut short leaves nothing behind that looks whole."""
    try:
        go = program("go")
    except NotInstalled as missing:
        raise NotInstalled("etcd cannot be built: it needs Go 1.25 or later") from missing
    print("building etcd (a minute) ...", flush=True)
    unfinished = ETCD.with_suffix(".unfinished")
    done = subprocess.run(
        [go, "build", "-mod=readonly", "-o", str(unfinished), "."],
        cwd=_ETCD_SOURCE,
        env=os.environ | {"CGO_ENABLED": "0"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise NotInstalled(f"etcd could not be built:\n{done.stderr[-2000:]}")
    unfinished.rename(ETCD)


if __name__ == "__main__":
    sys.exit(main())
