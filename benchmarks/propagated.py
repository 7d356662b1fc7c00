"""From a commit to the new answer on every worker, in milliseconds."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from datetime import datetime
from statistics import quantiles

from benchmarks.load import WrongAnswers, get, send
from benchmarks.routes import path_of, put_body, resolve_path
from benchmarks.wire import Answer, Connection

_PATIENCE_S = 20.0
# Between two questions to the workers: the waits are too long by up to this much, and a little.
_ASK_EVERY_S = 0.0005


def propagation_ms(
    writers: Sequence[Connection], workers: Sequence[Connection], route: int, seconds: float, pause_s: float
) -> list[list[float]]:
    """Change *route* again and again for *seconds*, about *pause_s* apart, and return for each change when each
    worker gave the new answer, counted from the database's time in the change, taken just before the commit."""
    chance = random.Random(route)
    waits = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # At any moment of a poller's interval.
        time.sleep(pause_s * chance.uniform(0.5, 1.5))
        waits.append(_one_change(chance.choice(writers), workers, route))
    return waits


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(values, n=100)[98]


def _one_change(writer: Connection, workers: Sequence[Connection], route: int) -> list[float]:
    url = f"https://moved.example.com/{time.time_ns()}".encode()
    # Its answer is read last: the others may show the change before this one is told that it is made.
    writer.send(send("PUT", path_of(route), put_body(url.decode())))
    seen_s = _seen_s(workers, get(resolve_path(route)), url)
    committed_s = updated_at_s(writer.receive())
    return [(moment - committed_s) * 1000 for moment in seen_s]


def _seen_s(workers: Sequence[Connection], question: bytes, url: bytes) -> list[float]:
    """Return the times at which each of *workers* first answered with *url*, all asked together, again and again."""
    seen: list[float] = []
    waiting = list(workers)
    deadline = time.monotonic() + _PATIENCE_S
    while waiting:
        if time.monotonic() > deadline:
            raise WrongAnswers(f"{len(waiting)} workers did not show a change in {_PATIENCE_S} s")
        time.sleep(_ASK_EVERY_S)
        for worker in waiting:
            worker.send(question)
        behind = [worker for worker in waiting if url not in worker.receive().body]
        seen += [time.time()] * (len(waiting) - len(behind))
        waiting = behind
    return seen


def updated_at_s(answer: Answer) -> float:
    """Return when the change that a write answered with was made, by the database's clock, in seconds since 1970."""
    found = re.search(rb'"updated_at": ?"([^"]+)"', answer.body)
    if answer.status != 200 or not found:
        raise WrongAnswers(f"PUT: {answer.status} {answer.body!r}")
    return datetime.fromisoformat(found[1].decode()).timestamp()
