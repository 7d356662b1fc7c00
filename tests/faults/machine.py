"""Whether the machine was ours while latencies were measured: what others take of it says nothing of the servers."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_A_S = os.sysconf("SC_CLK_TCK")
# Of the first line of /proc/stat: all but those who give way to us (1: niced), idle (3), waiting for disks (4), and
# guests, who are counted already.
_BUSY = (0, 2, 5, 6, 7)


@dataclass(frozen=True)
class Spent:
    """Processor time until now, in seconds: *busy_s* of the whole machine, *ours_s* of this process and those below
    it."""

    at_s: float
    busy_s: float
    ours_s: float

    def share_of_others_since(self, before: Spent) -> float:
        """Return which part of the machine's processors others have used since *before*."""
        others_s = (self.busy_s - before.busy_s) - (self.ours_s - before.ours_s)
        return max(0.0, others_s / (self.at_s - before.at_s) / (os.cpu_count() or 1))


def spent() -> Spent:
    """Measure now."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    busy_s = sum(int(fields[index]) for index in _BUSY) / _TICKS_A_S
    return Spent(time.monotonic(), busy_s, _ours_s())


def _ours_s() -> float:
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        # Ended meanwhile: then it is in its parent's figures, the next time.
        with suppress(OSError, ValueError):
            pid = int(entry.name)
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(pid)
            ticks[pid] = sum(map(int, fields[11:15]))  # its own, and that of its children who have ended
    family = [os.getpid()]
    for pid in family:  # grows while we walk
        family.extend(children.get(pid, []))
    return sum(ticks.get(pid, 0) for pid in family) / _TICKS_A_S


def age_s(pid: int) -> float:
    """Return for how long a process has lived; 0 if it has ended."""
    with suppress(OSError):
        born = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / _TICKS_A_S
        return time.clock_gettime(time.CLOCK_BOOTTIME) - born
    return 0.0
