"""Writes over HTTP: many clients, one client, one beside a flood of resolves, and batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from tests.node import Node

from benchmarks.figures import Figure, Outcome, Series, at_least, at_most
from benchmarks.load import SERIAL, Contender, Load, Requests, ask, get, in_background, in_turn, run, send
from benchmarks.peers import EtcdServer
from benchmarks.peers.etcd import put
from benchmarks.routes import key_of, path_of, put_body, resolve_path, spread
from benchmarks.scenarios.resolve import cpu, rates
from benchmarks.stage import Stage

ROUTES = 100_000
WRITTEN = 1_000
_BATCH = 1_000
_BATCHES = 16
_FRESH = SERIAL.decode()
# The same write, which no lane takes.
_NO_LANE = {"Content-Type": "application/json; charset=utf-8"}
_POSTGRES, _SQLITE, _DOCUMENTED = "ours, PostgreSQL", "ours, SQLite", "ours, documented route"


def writes(stage: Stage) -> Iterator[Outcome]:
    """Yield rates at 64 connections beside etcd's, batches, and what one client waits."""
    with EtcdServer() as etcd:
        yield from _one(stage, etcd)
        yield from _many(stage, etcd)


def _many(stage: Stage, etcd: EtcdServer) -> Iterator[Outcome]:
    with stage.node(stage.database(ROUTES), 2) as node, stage.node(stage.sqlite(ROUTES)) as embedded:
        on_postgres, on_sqlite = [node.pid, stage.postgres.pid], [embedded.pid]
        puts = {
            _POSTGRES: _puts(node, on_postgres),
            _DOCUMENTED: _puts(node, on_postgres, headers=_NO_LANE),
            _SQLITE: _puts(embedded, on_sqlite),
            "etcd": _etcd_puts(etcd),
        }
        yield from _put_figures(in_turn(puts, stage.plan.rounds, stage.plan.seconds, stage.say))
        batches = {_POSTGRES: _batches(node, on_postgres), _SQLITE: _batches(embedded, on_sqlite)}
        yield from _batch_figures(in_turn(batches, stage.plan.rounds, stage.plan.seconds, stage.say))


def _put_figures(loads: dict[str, list[Load]]) -> Iterator[Outcome]:
    for name, runs in loads.items():
        yield Series("write-rate", name, [(0, median(load.rate for load in runs))])
    ours, theirs = loads[_POSTGRES], loads["etcd"]
    what, gateway = "PUT of one route, {}, 64 connections", "etcd 3.6, put through its JSON gateway"
    on_postgres = what.format("PostgreSQL with fsync, 2 workers")
    yield rates("writes.postgres", on_postgres, ours, gateway, theirs, at_least(0.6, aim=1.0))
    yield cpu("writes.cpu", "CPU of our servers and PostgreSQL for one of these", ours, gateway, theirs)
    tails = [[load.latency_ms[99] for load in runs] for runs in (ours, theirs)]
    yield Figure("writes.p99", "p99 of the same", "ms", tails[0], gateway, tails[1], is_better_high=False)
    slow = "the documented route, no lane"
    yield rates("writes.documented", on_postgres, ours, slow, loads[_DOCUMENTED])
    yield rates("writes.sqlite", what.format("SQLite"), loads[_SQLITE], gateway, theirs)


def _batch_figures(loads: dict[str, list[Load]]) -> Iterator[Figure]:
    for name, target in ((_POSTGRES, at_least(20_000)), (_SQLITE, None)):
        runs, engine = loads[name], name.removeprefix("ours, ")
        changes = [load.rate * _BATCH for load in runs]
        used = f"server CPU {median(load.cpu_us for load in runs) / _BATCH:.0f} µs a change"
        what = f"changes in batches of {_BATCH:,}, {engine}, 4 connections"
        yield Figure(f"writes.batch.{engine.lower()}", what, "/s", changes, target=target, note=used)


def _one(stage: Stage, etcd: EtcdServer) -> Iterator[Figure]:
    """One worker, so that the client meets the saturated one."""
    with stage.node(stage.database(ROUTES)) as node:
        alone, there = _puts(node, [node.pid, stage.postgres.pid], 1), _etcd_puts(etcd, 1)
        loads = in_turn(
            {"alone": alone, "etcd, alone": there}, stage.plan.rounds, stage.plan.seconds, stage.say
        )
        flood = Contender(
            node.url, Requests([get(resolve_path(i)) for i in spread(5_000, ROUTES)]), [node.pid]
        )
        beside = _repeated(stage, flood, lambda: run(alone, stage.plan.seconds))
    idle, theirs = _medians_ms(loads["alone"]), _medians_ms(loads["etcd, alone"])
    one = "p50 of a PUT, PostgreSQL, one client"
    yield Figure("writes.alone", f"{one}, idle", "ms", idle, target=at_most(3), is_better_high=False)
    gateway = "etcd 3.6, one client"
    yield Figure("writes.alone.etcd", f"{one}, idle", "ms", idle, gateway, theirs, is_better_high=False)
    crowded = f"{one}, its worker saturated with resolves"
    waits = _medians_ms(beside)
    yield Figure("writes.saturated", crowded, "ms", waits, target=at_most(10), is_better_high=False)


def _repeated(stage: Stage, flood: Contender, measure: Callable[[], Load]) -> list[Load]:
    loads = []
    with in_background(flood, (stage.plan.seconds + 5) * stage.plan.rounds):
        for _ in range(stage.plan.rounds):
            loads.append(measure())
            stage.say(f"alone, saturated: p50 {loads[-1].latency_ms[50]:.2f} ms")
    return loads


def _medians_ms(loads: Sequence[Load]) -> list[float]:
    return [load.latency_ms[50] for load in loads]


def _puts(
    node: Node, roots: list[int], connections: int = 64, headers: Mapping[str, str] | None = None
) -> Contender:
    body = put_body(f"https://written.example.com/{_FRESH}")
    texts = [send("PUT", path_of(i), body, headers) for i in spread(WRITTEN, ROUTES)]
    return Contender(node.url, Requests(texts, connections), roots, 1, lambda: head_of(node.url))


def _etcd_puts(etcd: EtcdServer, connections: int = 64) -> Contender:
    # A value of the length of our URL; it may stay the same, which etcd takes for a change.
    value = f"https://written.example.com/{_FRESH}"
    bodies = [json.dumps(put("/".join(key_of(i)), value)).encode() for i in spread(WRITTEN, ROUTES)]
    texts = [send("POST", "/v3/kv/put", body) for body in bodies]
    return Contender(etcd.url, Requests(texts, connections), [etcd.pid], 1, etcd.revision)


def _batches(node: Node, roots: list[int]) -> Contender:
    texts = [send("POST", "/api/v1/routes/batch", _batch(number)) for number in range(_BATCHES)]
    return Contender(node.url, Requests(texts, 4), roots, _BATCH, lambda: head_of(node.url))


def _batch(number: int) -> bytes:
    keys = [key_of(i)._asdict() for i in range(number * _BATCH, (number + 1) * _BATCH)]
    url = f"https://written.example.com/{_FRESH}"
    return json.dumps({"operations": [{"operation": "put", **key, "url": url} for key in keys]}).encode()


def head_of(url: str) -> int:
    """Return the revision of the last change that is committed."""
    _, body = ask(url, get("/api/v1/changes?after=0&limit=1"))
    return int(json.loads(body)["head"].rpartition(".")[2])
