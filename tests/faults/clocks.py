"""A wall clock that only some processes have, and that jumps.

Our own few lines of C (`clock.c`), loaded before all libraries: libfaketime 0.9.10, Debian's, leaves Python 3.11 no
`time.sleep` when it keeps its hands off the monotonic clock.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.servers import programs

_SOURCE = Path(__file__).with_name("clock.c")
_SECONDS = struct.Struct("@l")
_FLAP_S = 5


class Clock:
    """What processes with `environment` take for the time."""

    def __init__(self, library: Path, shared: mmap.mmap, file: Path) -> None:
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(file)}
        self._shared = shared
        self._ahead_s = _FLAP_S

    def put(self, ahead_s: int) -> None:
        """Let it be so far ahead from now on."""
        _SECONDS.pack_into(self._shared, 0, ahead_s)

    def put_to_and_fro(self) -> bool:
        """Let it be five seconds ahead, or behind if it was ahead before."""
        self._ahead_s = -self._ahead_s
        self.put(self._ahead_s)
        return True


@contextmanager
def a_clock(folder: Path) -> Iterator[Clock]:
    """Lend a clock that is right, until it is put."""
    library, file = folder / "clock.so", folder / "clock"
    build = [
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(_SOURCE),
        "-ldl",
        "-pthread",
    ]
    subprocess.run([str(programs.cc()), *build], check=True)
    file.write_bytes(_SECONDS.pack(0))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), _SECONDS.size) as shared:
        yield Clock(library, shared, file)
