"""What the kernel says about processes and the machine: CPU time, memory, versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return *pid* and all its descendants."""
    found = [pid]
    for parent in found:  # grows while we walk it
        found += _children(parent)
    return found


def cpu_s(roots: list[int]) -> float:
    """Return the CPU time, in seconds, that the processes *roots* and their descendants have used."""
    return sum(_ticks(pid) for root in roots for pid in tree(root)) / _TICKS_PER_S


def rss_mb(pids: list[int]) -> float:
    """Return the resident memory of *pids* in MB (2**20 bytes), pages that they share counted for each."""
    return sum(_kilobytes(pid, "Rss") for pid in pids) / 1024


def pss_mb(pids: list[int]) -> float:
    """Return the memory of *pids* in MB (2**20 bytes), pages that they share counted once."""
    return sum(_kilobytes(pid, "Pss") for pid in pids) / 1024


def describe() -> dict[str, str]:
    """Return what a reader of the results has to know about the machine."""
    memory_kb = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": str(os.cpu_count()),
        "cpu": models[0] if models else platform.machine(),
        "memory": f"{memory_kb / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())


def _ticks(pid: int) -> int:
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(after_name[11]) + int(after_name[12])
    return 0


def _kilobytes(pid: int, what: str) -> int:
    with suppress(OSError):
        return int(re.findall(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[0])
    return 0
