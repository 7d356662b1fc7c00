"""`make bench`: resolve, write, import and start-up, each beside something else in the same run.

Load generator and servers share the machine, so read the ratios. Rounds are interleaved, ours and the peer's in
turn, so that a machine that drifts does not favour one; medians are reported with the spread.
"""

from __future__ import annotations

import csv
import datetime
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeVar

import httpx2
from tests.node import Node
from tests.servers import PostgresServer

from benchmarks.peers import Load, nginx, pgbench, wrk

ROUNDS = 5
SECONDS = 4.0
ROUTES = 100_000
DISTINCT = 5_000
RESULTS = Path(__file__).parent / "README.md"
EXAMPLE = Path(__file__).parents[1] / "examples/aws-endpoints.csv"

_RESOLVE_LUA = """
math.randomseed(1)
request = function()
  local i = math.random(0, {distinct} - 1)
  return wrk.format("GET", "/api/v1/routes/resolve?tenant=bench&service=s" .. i .. "&env=prod&version=v1")
end
"""
_PUT_LUA = """
local n = 0
request = function()
  n = n + 1
  local headers = {{["Content-Type"] = "application/json"}}
  local body = '{{"url": "https://s.example.com/' .. n .. '"}}'
  return wrk.format("PUT", "/api/v1/routes/bench/w" .. (n % 1000) .. "/prod/v1", headers, body)
end
"""

Row = tuple[str, str, str, str]
Mine = TypeVar("Mine")
Other = TypeVar("Other")


def main() -> None:
    """Run everything and write the table into benchmarks/README.md."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as postgres:
        on_postgres = dict(postgres.create_database("bench"))
        two_workers = on_postgres | {"API_WORKERS": "2"}
        with Node(Path(folder), two_workers).start("--migrate") as node:
            rows.append(_fill(node))
            rows += _resolve(node)
            rows += _write("PostgreSQL, 2 workers", node, lambda: pgbench(on_postgres, SECONDS))
            rows.append(_import("PostgreSQL, 2 workers", node))
            node.stop()
            rows.append(_start(node, "PostgreSQL, 2 workers"))
        with Node(Path(folder)).start() as embedded:
            rows += _write("SQLite", embedded, None)
            rows.append(_import("SQLite", embedded))
    _report(rows)


def _fill(node: Node) -> Row:
    began = time.perf_counter()
    with node.client(60) as client:
        for first in range(0, ROUTES, 1000):
            operations = [_put(i) for i in range(first, first + 1000)]
            client.post("/api/v1/routes/batch", json={"operations": operations}).raise_for_status()
    seconds = time.perf_counter() - began
    return "batches of 1,000 puts, PostgreSQL, one client", f"{ROUTES / seconds:,.0f} changes/s", "", ""


def _put(i: int) -> dict[str, str]:
    url = f"https://s{i}.example.com/v1"
    return {
        "operation": "put",
        "tenant": "bench",
        "service": f"s{i}",
        "env": "prod",
        "version": "v1",
        "url": url,
    }


def _resolve(node: Node) -> Iterator[Row]:
    path = "/api/v1/routes/resolve?tenant=bench&service=s1&env=prod&version=v1"
    script = _RESOLVE_LUA.format(distinct=DISTINCT)
    with nginx(httpx2.get(node.url + path).text) as peer:
        ours, theirs = _interleaved(
            lambda: wrk(node.url, script, SECONDS), lambda: wrk(peer, script, SECONDS)
        )
    assert sum(load.errors for load in ours) == 0, "every resolve must succeed"
    what = f"resolve, {ROUTES:,} routes, {DISTINCT:,} distinct, 64 connections"
    ratios = [mine.rate / other.rate for mine, other in zip(ours, theirs, strict=True)]
    yield what, _rate(ours), f"nginx answering a constant: {_rate(theirs)}", _spread(ratios)
    tails = [mine.p99_ms / other.p99_ms for mine, other in zip(ours, theirs, strict=True)]
    p99 = f"{median(load.p99_ms for load in ours):.1f} ms"
    yield "resolve p99", p99, f"nginx: {median(load.p99_ms for load in theirs):.1f} ms", _spread(tails)


def _write(engine: str, node: Node, peer: Callable[[], float] | None) -> Iterator[Row]:
    alone = [wrk(node.url, _PUT_LUA.format(), SECONDS, connections=1) for _ in range(2)]
    yield f"PUT, {engine}, 1 connection, p50", f"{median(load.p50_ms for load in alone):.1f} ms", "", ""
    run = peer or (lambda: 0.0)
    ours, theirs = _interleaved(lambda: wrk(node.url, _PUT_LUA.format(), SECONDS), run)
    assert sum(load.errors for load in ours) == 0, "every put must succeed"
    told = f"pgbench, one insert a transaction: {median(theirs):,.0f}/s" if peer else ""
    ratio = _spread([mine.rate / rate for mine, rate in zip(ours, theirs, strict=True)]) if peer else ""
    yield f"PUT, {engine}, 64 connections", _rate(ours), told, ratio


def _import(engine: str, node: Node) -> Row:
    command = [sys.executable, "-m", "traffic_manager.cli", "routes", "import", str(EXAMPLE)]
    lines = sum(1 for _ in csv.DictReader(EXAMPLE.open()))
    began = time.perf_counter()
    subprocess.run(command, env={**node.environment, "TM_URL": node.url}, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    return f"`routes import`, {lines:,} routes, {engine}", f"{seconds:.1f} s", "to stay under 10 s", ""


def _start(node: Node, engine: str) -> Row:
    seconds: list[float] = []
    for _ in range(3):
        with _timed(seconds):
            node.start()
        node.stop()
    return f"start to ready with {ROUTES:,} routes, {engine}", f"{median(seconds):.1f} s", "", ""


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append(time.perf_counter() - began)


def _interleaved(mine: Callable[[], Mine], other: Callable[[], Other]) -> tuple[list[Mine], list[Other]]:
    pairs = [(mine(), other()) for _ in range(ROUNDS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _rate(loads: list[Load]) -> str:
    return f"{median(load.rate for load in loads):,.0f}/s"


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _report(rows: list[Row]) -> None:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [f"| {' | '.join(row)} |" for row in rows]
    table = "\n".join(
        ["| what | here | beside it, same run | ratio (least–most) |", "|---|---|---|---|", *lines]
    )
    machine = f"{platform.system()}, {_cores()} cores, Python {platform.python_version()}"
    before, _, _ = RESULTS.read_text().partition("## Results")
    RESULTS.write_text(f"{before}## Results\n\n{today}, {machine}.\n\n{table}\n")
    print(table)


def _cores() -> int:
    return len(Path("/proc/cpuinfo").read_text().split("processor\t")) - 1


if __name__ == "__main__":
    main()
