"""`python -m benchmarks.traffic RESOLVES WRITES ROUTES URL...`: paced requests in a process of their own.

Sends so many resolves and writes a second until its standard input ends, then prints how many were answered. Whoever
falls behind catches up at once, so that a slow answer does not lower the rate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle

from tests.node import Node

from benchmarks.load import WrongAnswers, get, send
from benchmarks.routes import path_of, put_body, resolve_path, spread
from benchmarks.wire import Connection

# For each URL: enough to have met every worker of a node.
_CONNECTIONS = 8
# What may be missing at the end: the two ends of the time are not the same for both processes.
_LEAST_PART = 0.9


@contextmanager
def traffic(nodes: list[Node], routes: int, resolves: int, writes: int) -> Iterator[None]:
    """Keep *resolves* and *writes* a second on *nodes* while the block runs. Raises WrongAnswers if fewer came."""
    arguments = [str(number) for number in (resolves, writes, routes)] + [node.url for node in nodes]
    command = [sys.executable, "-m", "benchmarks.traffic", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
            began = time.monotonic()
            yield
            printed, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    seconds = time.monotonic() - began
    done = json.loads(printed) if process.returncode == 0 else {}
    for name, rate in (("resolves", resolves), ("writes", writes)):
        if done.get(name, 0) < rate * seconds * _LEAST_PART:
            raise WrongAnswers(f"{done.get(name)} {name} in {seconds:.1f} s, asked for {rate}/s")


def main() -> int:
    """Return 0 when standard input has ended, 1 if a request failed."""
    resolves, writes, routes = map(int, sys.argv[1:4])
    connections = [Connection(url) for url in sys.argv[4:] for _ in range(_CONNECTIONS)]
    end = threading.Event()
    questions = [get(resolve_path(i)) for i in spread(1_000, routes)]
    resolver = _Pace(resolves, connections[::2], questions, end)
    # Not the routes that are watched: whoever measures changes the first ones.
    writer = _Pace(writes, connections[1::2], range(1_000, 1_500), end)
    for pace in (resolver, writer):
        pace.start()
    print("begun", flush=True)
    sys.stdin.read()
    end.set()
    for pace in (resolver, writer):
        pace.join()
    print(json.dumps({"resolves": resolver.done, "writes": writer.done}))
    return 1 if resolver.failed or writer.failed else 0


class _Pace(threading.Thread):
    """Sends *rate* requests a second: texts as they are, and for the number of a route one that changes it."""

    def __init__(
        self, rate: int, connections: list[Connection], items: Iterable[bytes | int], end: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.failed = 0
        self._interval_s = 1 / rate
        self._connections = cycle(connections)
        self._items = cycle(items)
        self._end = end

    def run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            if next(self._connections).ask(_text(next(self._items))).status == 200:
                self.done += 1
            else:
                self.failed += 1
            due += self._interval_s
            time.sleep(max(0.0, due - time.monotonic()))


def _text(item: bytes | int) -> bytes:
    if isinstance(item, bytes):
        return item
    return send("PUT", path_of(item), put_body(f"https://busy.example.com/{time.time_ns()}"))


if __name__ == "__main__":
    sys.exit(main())
