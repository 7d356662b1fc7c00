"""The files of a shared directory that several workers keep their metrics in, named by the worker's *index*.

The directory belongs on a memory file system (`/run`, `/dev/shm`): the files are mapped memory, a disk would write
them for nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import values

_FILES = ("counter", "histogram", "gauge_livemax", "gauge_livemin", "gauge_livesum")
# Room for about 1,000 series of one type; a file that must grow is read in a moment without its new size.
_FILE_BYTES = 256 * 1024
_STARTED = "started_at"


def clear(directory: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Make *directory* ready for a new start of the server: nothing is left of the last one."""
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.db", "*.cells", "*.new"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
    (directory / _STARTED).write_text(repr(monotonic()))


def forget_worker(directory: Path, index: int) -> None:
    """Remove the gauges of a worker that has died: what it last said is true no more. Its counters stay."""
    for path in directory.glob(f"gauge_live*_{index}.db"):
        path.unlink(missing_ok=True)


def server_start(directory: Path, monotonic: Callable[[], float]) -> float:
    """Return when `clear` was called, which is when the server started, or now if it was not."""
    try:
        return float((directory / _STARTED).read_text())
    except (OSError, ValueError):
        return monotonic()


def prepare(directory: Path, worker: int) -> None:
    """Drop the gauges of this worker's predecessor and make the files, each in one step: a scrape must never
    see an empty one. They are written in full, for a mapped file with holes on a full disk is a SIGBUS."""
    forget_worker(directory, worker)
    for name in _FILES:
        path = directory / f"{name}_{worker}.db"
        if not path.exists():
            draft = path.with_suffix(".new")
            draft.write_bytes(bytes(_FILE_BYTES))
            draft.replace(path)


# Any: prometheus_client leaves its value classes untyped.
def value_class(directory: Path | None, worker: int) -> Any:
    """Return the class that keeps the values of our series: in this process, or in files by worker index."""
    if directory is None:
        return values.MutexValue
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    return values.MultiProcessValue(process_identifier=lambda: worker)  # type: ignore[no-untyped-call]
