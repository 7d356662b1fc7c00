"""How memory, start-up and speed grow with the table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from urllib.parse import urlencode

from tests.node import Node

from benchmarks.figures import Figure, Outcome, Series, Target, at_least, at_most
from benchmarks.load import SERIAL, Contender, Load, Requests, WrongAnswers, get, in_turn, run, send
from benchmarks.machine import pss_mb, rss_mb, tree
from benchmarks.propagated import p99, propagation_ms
from benchmarks.routes import key_of, path_of, put_body, resolve_path, spread
from benchmarks.scenarios.resolve import rates
from benchmarks.scenarios.writes import WRITTEN, head_of
from benchmarks.stage import EXAMPLE, Stage
from benchmarks.wire import Connection, to_every_worker

_MILLION = 1_000_000
_WORKERS = 4
_READY_TIMEOUT_S = 60.0
_STARTS = 3
_PAGE_ROUNDS = 30
_CHANGES_OF_ONE = 5_000
_SETTLE_S = 1.0


def size(stage: Stage) -> Iterator[Outcome]:
    """Yield the same figures for each size of the plan."""
    databases = {count: stage.database(count) for count in stage.plan.sizes}
    for count, database in databases.items():
        yield from _starts(stage, count, database)
        yield from _together(stage, count, database)
    yield from _rates(stage, databases)


def _starts(stage: Stage, count: int, database: dict[str, str]) -> Iterator[Outcome]:
    """One worker alone, on either engine."""
    is_million = count == _MILLION
    for engine, settings in (("PostgreSQL", database), ("SQLite", stage.sqlite(count))):
        with stage.stopped_node(settings) as node:
            seconds, memory = _started(stage, node, 1, resolves=count if engine == "PostgreSQL" else 0)
        what = f"start to ready, {count:,} routes, {engine}, 1 worker"
        target = at_most(4) if is_million else None
        yield _low(f"size.start.{engine.lower()}.{count}", what, "s", seconds, target)
        yield Series("start-up", f"{engine}, 1 worker", [(count, median(seconds))])
        if engine == "PostgreSQL":
            what = f"resident memory of one worker after resolves, {count:,} routes, complete mirror"
            target = at_most(350, aim=230) if is_million else None
            yield _low(f"size.memory.{count}", what, "MB", memory, target)
            yield Series("memory", "1 worker, resident", [(count, median(memory))])


def _together(stage: Stage, count: int, database: dict[str, str]) -> Iterator[Outcome]:
    """Four workers that start at once: time, memory, propagation, pages, import."""
    is_million = count == _MILLION
    with stage.stopped_node(database, _WORKERS) as node:
        seconds, memory = _started(stage, node, _WORKERS, resolves=count, keep=True)
        what = f"start to ready, {count:,} routes, PostgreSQL, {_WORKERS} workers at once"
        target = at_most(8) if is_million else None
        yield _low(f"size.start.together.{count}", what, "s", seconds, target)
        yield Series("start-up", f"PostgreSQL, {_WORKERS} workers", [(count, median(seconds))])
        what = (
            f"memory of {_WORKERS} workers and their parent together after resolves (PSS), {count:,} routes"
        )
        yield _low(f"size.together.{count}", what, "MB", memory, at_most(350) if is_million else None)
        yield Series("memory", f"{_WORKERS} workers together, shared pages once", [(count, median(memory))])
        yield from _seen_everywhere(stage, count, node)
        yield from _pages(stage, count, node)
        yield _import(stage, count, node)


def _started(
    stage: Stage, node: Node, workers: int, resolves: int, keep: bool = False
) -> tuple[list[float], list[float]]:
    """Start *node* several times; return seconds to ready and MB after resolves, of each. *keep* it running."""
    seconds, memory = [], []
    for number in range(_STARTS):
        seconds.append(_ready_s(node, workers))
        if resolves:
            memory.append(_memory_mb(node, resolves))
        stage.say(f"ready in {seconds[-1]:.2f} s, {memory[-1] if memory else 0:.0f} MB")
        if number < _STARTS - 1 or not keep:
            node.stop()
    return seconds, memory


def _ready_s(node: Node, workers: int) -> float:
    """Return how long it took from the start until every worker had said that it is ready, and one answered so."""
    before = _count_ready(node)
    began = time.perf_counter()
    node.start(wait_ready=False)
    while _count_ready(node) < before + workers:
        if not node.is_running() or time.perf_counter() - began > _READY_TIMEOUT_S:
            raise WrongAnswers(f"{workers} workers are not ready; the log:\n{node.log()[-2000:]}")
        time.sleep(0.005)
    connection = Connection(node.url)
    status = connection.ask(get("/health/ready")).status
    connection.close()
    if status != 200:
        raise WrongAnswers(f"/health/ready: {status}")
    return time.perf_counter() - began


def _count_ready(node: Node) -> int:
    # The last line may be half written.
    lines = [json.loads(line) for line in node.log().split("\n")[:-1] if line.startswith("{")]
    return sum(line.get("event") == "ready" for line in lines)


def _memory_mb(node: Node, count: int) -> float:
    """Return the memory after a second of resolves all over the table: what a worker keeps for speed counts too."""
    texts = [get(resolve_path(i)) for i in spread(min(count, 50_000), count)]
    run(Contender(node.url, Requests(texts), [node.pid]), 1)
    time.sleep(_SETTLE_S)
    processes = tree(node.pid)
    return rss_mb(processes) if len(processes) == 1 else pss_mb(processes)


def _seen_everywhere(stage: Stage, count: int, node: Node) -> Iterator[Figure]:
    with to_every_worker(node) as workers, to_every_worker(node) as writers:
        changes = propagation_ms(writers, workers, 1, stage.plan.seconds, pause_s=0.05)
    waits = [max(change) for change in changes]
    what = f"commit to the new answer on all {_WORKERS} workers, {count:,} routes"
    yield _low(f"size.propagation.p50.{count}", f"{what}, p50", "ms", [median(waits)])
    yield _low(f"size.propagation.p99.{count}", f"{what}, p99", "ms", [p99(waits)])


def _pages(stage: Stage, count: int, node: Node) -> Iterator[Figure]:
    """The last page beside the first, of all routes and of the history of one."""
    _change_often(node, _CHANGES_OF_ONE)
    connection = Connection(node.url)
    lists = ("list", "/api/v1/routes", {"page_size": "500"}, "routes", count)
    history = ("history", f"{path_of(0)}/history", {"page_size": "100"}, "changes", _CHANGES_OF_ONE)
    for name, path, query, member, least in (lists, history):
        first = get(f"{path}?{urlencode(query)}")
        last = _last_page(connection, path, query, member, least)
        pairs = [(connection.asked_ms(last), connection.asked_ms(first)) for _ in range(_PAGE_ROUNDS)]
        what = f"last page of {name}, {count:,} routes"
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        stage.say(f"{what}: {median(ours):.1f} ms, the first {median(theirs):.1f} ms")
        yield Figure(
            f"size.{name}.{count}",
            what,
            "ms",
            ours,
            "the first page",
            theirs,
            at_most(1.2),
            is_better_high=False,
        )
    connection.close()


def _change_often(node: Node, changes: int) -> None:
    """Change the first route *changes* times."""
    connection = Connection(node.url)
    key = key_of(0)._asdict()
    for first in range(0, changes, 1000):
        urls = [f"https://often.example.com/{number}" for number in range(first, first + 1000)]
        operations = [{"operation": "put", **key, "url": url} for url in urls]
        connection.asked_ms(
            send("POST", "/api/v1/routes/batch", json.dumps({"operations": operations}).encode())
        )
    connection.close()


def _last_page(connection: Connection, path: str, query: dict[str, str], member: str, least: int) -> bytes:
    """Walk to the end and return the request of the last page. Raises WrongAnswers if items are missing."""
    seen, asked = 0, query
    while True:
        request = get(f"{path}?{urlencode(asked)}")
        page = json.loads(connection.ask(request).body)
        seen += len(page[member])
        if page["next_page_token"] is None:
            break
        before, asked = request, query | {"page_token": page["next_page_token"]}
    if seen < least:
        raise WrongAnswers(f"{path}: {seen} of {least} items")
    # The very last page may hold few items: the one before is as long as the first.
    return before


def _import(stage: Stage, count: int, node: Node) -> Figure:
    command = [sys.executable, "-m", "traffic_manager.cli", "routes", "import", str(EXAMPLE)]
    began = time.perf_counter()
    environment = node.environment | {"TM_URL": node.url}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    seconds = time.perf_counter() - began
    lines = len(EXAMPLE.read_text().splitlines()) - 1
    stage.say(f"import of {lines:,} routes: {seconds:.1f} s")
    return _low(
        f"size.import.{count}", f"`routes import` of {lines:,} routes beside {count:,}", "s", [seconds]
    )


def _rates(stage: Stage, databases: dict[int, dict[str, str]]) -> Iterator[Figure]:
    """Resolves and writes at each size beside those at the smallest, all servers up at once."""
    with ExitStack() as nodes:
        contenders: dict[str, Contender] = {}
        for count, database in databases.items():
            node = nodes.enter_context(stage.node(database, 2))
            contenders |= _contenders(stage, node, count)
        loads = in_turn(contenders, stage.plan.rounds, stage.plan.seconds, stage.say)
    smallest, *larger = databases
    for verb in ("resolve", "write"):
        rate = [load.rate for load in loads[f"{verb}, {smallest:,}"]]
        yield Figure(f"size.{verb}.{smallest}", f"{verb} rate, {smallest:,} routes, 2 workers", "/s", rate)
    for count in larger:
        for verb in ("resolve", "write"):
            target = at_least(0.85) if verb == "resolve" and count == _MILLION else None
            yield _rate(verb, count, smallest, loads, target)


def _rate(
    verb: str, count: int, smallest: int, loads: dict[str, list[Load]], target: Target | None
) -> Figure:
    ours, theirs = (loads[f"{verb}, {size:,}"] for size in (count, smallest))
    what = f"{verb} rate, {count:,} routes, 2 workers"
    return rates(f"size.{verb}.{count}", what, ours, f"{smallest:,} routes", theirs, target)


def _contenders(stage: Stage, node: Node, count: int) -> dict[str, Contender]:
    body = put_body(f"https://written.example.com/{SERIAL.decode()}")
    resolves = [get(resolve_path(i)) for i in spread(5_000, count)]
    puts = [send("PUT", path_of(i), body) for i in spread(WRITTEN, count)]
    roots = [node.pid, stage.postgres.pid]
    return {
        f"resolve, {count:,}": Contender(node.url, Requests(resolves), [node.pid]),
        f"write, {count:,}": Contender(node.url, Requests(puts), roots, 1, lambda: head_of(node.url)),
    }


def _low(name: str, what: str, unit: str, values: list[float], target: Target | None = None) -> Figure:
    return Figure(name, what, unit, values, target=target, is_better_high=False)
