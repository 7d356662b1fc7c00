"""A table ten times as large as the mirror may be, with Redis and the database behind it; some routes are popular."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from statistics import median

import redis
from tests.node import Node
from tests.servers import RedisServer

from benchmarks.figures import Figure, Outcome, Series, at_most
from benchmarks.load import SERIAL, Contender, Load, Requests, WrongAnswers, ask, get, in_turn, warm
from benchmarks.machine import rss_mb
from benchmarks.routes import resolve_path, spread, url_of
from benchmarks.scenarios.resolve import rates
from benchmarks.stage import Stage
from benchmarks.wire import answering

_WORKERS = 2
_PART = 10
_CHECKED = 200
_MARK = SERIAL.decode()
_QUERY = f"tenant=team-{_MARK}&service=service-{_MARK}&env=prod&version=v1"
_WARM_S, _WARM_MOST_S = 3, 30


def bounded(stage: Stage) -> Iterator[Outcome]:
    """Yield hit ratio, rate, tail and memory beside those of a server that holds the whole table."""
    routes = stage.plan.sizes[-1]
    database = stage.database(routes)
    limit = {"MIRROR_MAX_ROUTES": str(routes // _PART)}
    with ExitStack() as things:
        cache = things.enter_context(RedisServer())
        whole = things.enter_context(stage.node(database, _WORKERS))
        node = things.enter_context(stage.node(database, _WORKERS, **limit, **cache.env()))
        contenders = {"a tenth in memory": _zipf(node, routes), "all in memory": _zipf(whole, routes)}
        _fill_mirror(node, contenders["a tenth in memory"], routes // _PART)
        memory = [_largest_mb(node)]
        counted = _Counts(cache, node)
        loads = in_turn(contenders, stage.plan.rounds, stage.plan.seconds, stage.say)
        memory += [_largest_mb(node), _largest_mb(whole)]
        _check(node, routes)
        yield counted.hits(routes)
    yield from _figures(loads, routes)
    yield _memory(memory, routes)
    for name, runs in loads.items():
        percents = runs[0].latency_ms
        yield Series("bounded", name, [(p, median(load.latency_ms[p] for load in runs)) for p in percents])


def _zipf(node: Node, routes: int) -> Contender:
    shape = get(f"/api/v1/routes/resolve?{_QUERY}")
    return Contender(node.url, Requests([shape], zipf_over=routes), [node.pid])


def _fill_mirror(node: Node, contender: Contender, limit: int) -> None:
    """Ask until a worker holds as many routes as it may, or for as long as there is time."""
    end = time.monotonic() + _WARM_MOST_S
    while _metrics(node)["tm_mirror_routes"] < limit and time.monotonic() < end:
        warm(contender, _WARM_S)


def _metrics(node: Node) -> dict[str, float]:
    """Return the metrics that have no label."""
    with node.client() as client:
        lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}


def _largest_mb(node: Node) -> float:
    return max(rss_mb([pid]) for pid in answering(node))


class _Counts:
    """Who answered since this was made: Redis says what it knew, the metrics what the database was asked for."""

    def __init__(self, cache: RedisServer, node: Node) -> None:
        self._redis = redis.Redis(cache.host, cache.port)
        self._node = node
        self._before = self._read()

    def hits(self, routes: int) -> Figure:
        """Return the part of the resolves that the workers answered from memory."""
        then, now = self._before, self._read()
        resolves, by_redis, by_database = (after - before for before, after in zip(then, now, strict=True))
        by_memory = resolves - by_redis - by_database
        what = f"resolves answered from memory, {routes:,} routes, a tenth in memory, Zipf"
        note = f"from Redis {by_redis / resolves:.1%}, from the database {by_database / resolves:.1%}"
        return Figure("bounded.hits", what, "%", [100 * by_memory / resolves], note=note)

    def _read(self) -> tuple[float, float, float]:
        stats = self._redis.info("stats")
        assert isinstance(stats, dict)
        counts, known = _metrics(self._node), float(stats["keyspace_hits"])
        return counts["resolve_requests_total"], known, counts["resolve_cache_miss_total"]


def _figures(loads: dict[str, list[Load]], routes: int) -> Iterator[Figure]:
    ours, theirs = loads["a tenth in memory"], loads["all in memory"]
    what = f"resolve, {routes:,} routes, a tenth in memory, Zipf, {_WORKERS} workers"
    beside = "all in memory"
    yield rates("bounded.rate", what, ours, beside, theirs)
    tails = [[load.latency_ms[99] for load in runs] for runs in (ours, theirs)]
    yield Figure(
        "bounded.p99",
        "p99 of the same",
        "ms",
        tails[0],
        beside,
        tails[1],
        is_better_high=False,
    )


def _memory(memory: Sequence[float], routes: int) -> Figure:
    first, last, whole = memory
    what = f"resident memory of the larger worker after all rounds, {routes:,} routes, a tenth in memory"
    note = f"{whole:.0f} MB with all in memory"
    beside = "once the mirror was full"
    return Figure(
        "bounded.memory", what, "MB", [last], beside, [first], at_most(1.1), is_better_high=False, note=note
    )


def _check(node: Node, routes: int) -> None:
    """Raise WrongAnswers unless routes all over the table, seldom asked for, get their URL."""
    for i in spread(_CHECKED, routes):
        status, body = ask(node.url, get(resolve_path(i)))
        if status != 200 or json.loads(body)["url"] != url_of(i):
            raise WrongAnswers(f"{status} {body!r} for route {i}")
