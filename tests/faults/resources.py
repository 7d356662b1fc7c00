"""What the nodes hold: memory, open files, threads, connections of the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from tests.faults.stand import Stand
from tests.node import Node, workers_of

_MORE_MEMORY = 1.10
_MORE_FILES = 20
# Pools start their threads when they first need them: of each of the four workers, two may have been idle before.
_MORE_THREADS = 8
# Who asks for a count has one too, and a follower that connects anew may have two for a moment.
_CONNECTIONS = """select count(*) from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"""


@dataclass(frozen=True)
class Used:
    """What all nodes hold together; memory that processes share counts once."""

    memory_kib: int
    files: int
    threads: int
    connections: int

    def with_more_memory(self, more_kib: int) -> Used:
        """Return the same with so much more memory."""
        return replace(self, memory_kib=self.memory_kib + more_kib)

    def excess_over(self, before: Used) -> list[str]:
        """Return what is more than *before*, beyond what may be."""
        limits = {
            "memory (KiB)": (self.memory_kib, before.memory_kib * _MORE_MEMORY),
            "open files": (self.files, before.files + _MORE_FILES),
            "threads": (self.threads, before.threads + _MORE_THREADS),
            "connections": (self.connections, before.connections),
        }
        return [f"{what}: {now}, not {most:.0f}" for what, (now, most) in limits.items() if now > most]


def used_by(stand: Stand) -> Used:
    """Measure now."""
    pids = list(_processes(stand.nodes))
    return Used(
        sum(_memory_kib(pid) for pid in pids),
        sum(_count(f"/proc/{pid}/fd") for pid in pids),
        sum(_count(f"/proc/{pid}/task") for pid in pids),
        _connections(stand.conninfo),
    )


def rss_kib_by_process(nodes: Sequence[Node]) -> list[int]:
    """Return the resident memory of each process; what processes share counts for each of them."""
    return [_kib_of(f"/proc/{pid}/status", "VmRSS:") for pid in _processes(nodes)]


def _processes(nodes: Sequence[Node]) -> Iterator[int]:
    for node in nodes:
        yield node.pid
        yield from workers_of(node)


def _memory_kib(pid: int) -> int:
    return _kib_of(f"/proc/{pid}/smaps_rollup", "Pss:")


def _kib_of(file: str, name: str) -> int:
    with suppress(OSError):  # ended meanwhile
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _count(folder: str) -> int:
    with suppress(OSError):
        return len(os.listdir(folder))
    return 0


def _connections(conninfo: str) -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(_CONNECTIONS).fetchone()
    assert row is not None
    return int(row[0])
