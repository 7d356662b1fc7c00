"""The nodes and databases of one test, and the processes behind them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from tests.node import Node, wait_until, workers_of
from tests.promises.caller import Caller
from tests.servers import PostgresServer, Server

_numbers = count(1)
Found = TypeVar("Found")


def a_node(folder: Path, settings: Mapping[str, str] | None = None) -> Node:
    """Return a node that is not started, in a folder of its own below *folder* unless DB_PATH says otherwise."""
    place = folder / f"place-{next(_numbers)}"
    place.mkdir()
    return Node(place, {"DB_POOL_MAX": "6", **(settings or {})})


@contextmanager
def a_database(server: PostgresServer) -> Iterator[dict[str, str]]:
    """Lend the settings of an empty database; the server must run again when the block ends."""
    name = f"promise_{os.getpid()}_{next(_numbers)}"
    yield server.create_database(name)
    server.drop_database(name)


def worker_behind(node: Node, caller: Caller) -> int | None:
    """Return the process that has accepted *caller*'s connection, None if none has yet."""
    inode = _inode(node.port, caller.local_port)
    for pid in workers_of(node) or [node.pid]:
        if inode and any(f"socket:[{inode}]" == link for link in _open_files(pid)):
            return pid
    return None


def one_caller_per_worker(node: Node, count_workers: int) -> dict[int, Caller]:
    """Return an open connection to each worker."""
    found: dict[int, Caller] = {}
    for _ in range(200):
        caller = Caller(node)
        caller.ask("GET", "/health/live")
        pid = worker_behind(node, caller)
        if pid is not None and pid not in found:
            found[pid] = caller
        if len(found) == count_workers:
            return found
    raise AssertionError(f"met {len(found)} of {count_workers} workers in 200 connections")


def _inode(port: int, peer_port: int) -> str | None:
    wanted = (f":{port:04X}", f":{peer_port:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1]):
            return fields[9]
    return None


def _open_files(pid: int) -> list[str]:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except OSError:  # closed meanwhile
            continue
    return links


def soon(find: Callable[[], Found | None], timeout_s: float, what: str) -> Found:
    """Return what *find* finds in the end. Fails the test when time is up."""
    found = wait_until(find, timeout_s, what)
    assert found is not None
    return found


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Halt *server* while the block runs."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def killed(server: Server) -> Iterator[None]:
    """Kill *server*; start it again when the block ends."""
    server.kill()
    try:
        yield
    finally:
        server.start()


OUTAGES = {"frozen": frozen, "killed": killed}
