"""Changes seen everywhere: two nodes of four workers on one PostgreSQL, busy, idle, and after a burst."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from statistics import median

from tests.node import Node

from benchmarks.figures import Figure, Outcome, Series, at_most
from benchmarks.load import WrongAnswers, get
from benchmarks.machine import cpu_s
from benchmarks.propagated import p99, propagation_ms
from benchmarks.routes import change_postgres, resolve_path
from benchmarks.stage import Stage
from benchmarks.traffic import traffic
from benchmarks.wire import Connection, answering, to_every_worker

ROUTES = 100_000
_WORKERS = 4
_RESOLVES = 1_000
_WRITES = 50
_BURST = 100_000
_IDLE_S = 10.0
_BURST_PATIENCE_S = 60.0
# An answer may be this old before it has to say so, and the watching takes a moment of its own.
_UNFLAGGED_S = 1.2
_PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


def propagation(stage: Stage) -> Iterator[Outcome]:
    """Yield the time from commit to answer, the cost of following, and the time to catch up."""
    database = stage.database(ROUTES)
    with ExitStack() as open_nodes:
        nodes = [open_nodes.enter_context(stage.node(database, _WORKERS)) for _ in range(2)]
        with to_every_worker(*nodes) as workers, to_every_worker(*nodes) as writers:
            yield from _busy(stage, nodes, writers, workers)
            yield _idle(stage, nodes)
            yield _burst(stage, database, workers)


def _busy(
    stage: Stage, nodes: list[Node], writers: Sequence[Connection], workers: Sequence[Connection]
) -> Iterator[Outcome]:
    rounds: list[list[list[float]]] = []
    with traffic(nodes, ROUTES, _RESOLVES, _WRITES):
        for number in range(stage.plan.rounds):
            rounds.append(propagation_ms(writers, workers, number, 1.5 * stage.plan.seconds, pause_s=0.1))
            last = [max(waits) for waits in rounds[-1]]
            stage.say(f"seen by {len(workers)} workers: p50 {median(last):.1f} ms, p99 {p99(last):.1f} ms")
    what = f"2 nodes x {_WORKERS} workers with {_RESOLVES:,} resolves/s and {_WRITES} writes/s"
    lasts = [[max(waits) for waits in changes] for changes in rounds]
    each = [[wait for waits in changes for wait in waits] for changes in rounds]
    for who, title, samples in (("last", "on all 8 workers", lasts), ("each", "on a worker", each)):
        for name, of, target in (("p50", median, at_most(10)), ("p99", p99, at_most(100))):
            values = [of(waits) for waits in samples]
            yield Figure(
                f"propagation.{who}.{name}",
                f"commit to the new answer {title}, {what}, {name}",
                "ms",
                values,
                target=target,
                is_better_high=False,
            )
        together = sorted(wait for waits in samples for wait in waits)
        yield Series(
            "propagation", title, [(percent, _percentile(together, percent)) for percent in _PERCENTS]
        )


def _idle(stage: Stage, nodes: list[Node]) -> Figure:
    time.sleep(1)  # until the traffic's last change is followed
    workers = [pid for node in nodes for pid in answering(node)]
    before = cpu_s(workers)
    time.sleep(_IDLE_S)
    percent = (cpu_s(workers) - before) / _IDLE_S / len(workers) * 100
    stage.say(f"idle: {percent:.2f} % of a core per worker")
    what = "CPU of an idle worker that follows, mean of 8 (all that it does counts)"
    return Figure(
        "propagation.idle", what, "% of a core", [percent], target=at_most(0.5), is_better_high=False
    )


def _burst(stage: Stage, database: dict[str, str], workers: Sequence[Connection]) -> Figure:
    head = change_postgres(database, _BURST)
    committed = time.monotonic()
    waiting = list(workers)
    while waiting:
        waited_s = time.monotonic() - committed
        if waited_s > _BURST_PATIENCE_S:
            raise WrongAnswers(f"{len(waiting)} workers are still behind after {waited_s:.0f} s")
        waiting = [worker for worker in waiting if _is_behind(worker, head, waited_s)]
        time.sleep(0.01)
    seconds = time.monotonic() - committed
    stage.say(f"{_BURST:,} changes caught up by {len(workers)} workers in {seconds:.2f} s")
    what = f"a burst of {_BURST:,} changes in one commit, until all 8 workers answer from it"
    note = f"answers from before it that were older than {_UNFLAGGED_S} s all said so"
    return Figure(
        "propagation.burst", what, "s", [seconds], target=at_most(10), is_better_high=False, note=note
    )


def _is_behind(worker: Connection, head: int, waited_s: float) -> bool:
    """Return whether a worker answers from before *head*, which was committed *waited_s* ago. Raises WrongAnswers if
    it should have said by now that it may be stale."""
    answer = worker.ask(get(resolve_path(0)))
    position = answer.header(b"tm-revision")
    if answer.status != 200 or position is None:
        raise WrongAnswers(f"{answer.status} {answer.headers!r}")
    is_behind = int(position.rpartition(b".")[2]) < head
    if is_behind and waited_s > _UNFLAGGED_S and answer.header(b"tm-stale") is None:
        raise WrongAnswers(f"{waited_s:.1f} s behind and not flagged: {answer.headers!r}")
    return is_behind


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
