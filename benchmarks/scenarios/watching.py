"""Ten thousand watchers of one worker: what each costs while nothing happens, and how soon a change reaches them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from benchmarks.figures import Figure, Outcome, Series, at_most
from benchmarks.load import send
from benchmarks.machine import rss_mb
from benchmarks.propagated import updated_at_s
from benchmarks.routes import key_of, path_of, put_body
from benchmarks.stage import Stage
from benchmarks.watchers import Watchers, raise_file_limit, watchers
from benchmarks.wire import Connection, answering

ROUTES = 10_000
# A route of one tenant that few watch, and one of another that many watch.
_FEW, _FEW_ROUTE = 1_000, 0
_MANY, _MANY_ROUTE = 9_000, 5_000
_CHANGES_A_ROUND = 3
_SETTLE_S = 2.0
_PERCENTS = (1, 25, 50, 75, 90, 99, 100)


def watching(stage: Stage) -> Iterator[Outcome]:
    """Yield memory for each watcher, and the time from a commit to the last watcher that asked for it."""
    raise_file_limit(_FEW + _MANY)
    with stage.node(stage.database(ROUTES)) as node, watchers() as crowd:
        (worker,) = answering(node)
        time.sleep(_SETTLE_S)
        before = rss_mb([worker])
        few = crowd.open(node.url, key_of(_FEW_ROUTE).tenant, _FEW)
        many = crowd.open(node.url, key_of(_MANY_ROUTE).tenant, _MANY)
        time.sleep(_SETTLE_S)
        each_kb = (rss_mb([worker]) - before) * 1024 / len(crowd)
        stage.say(f"{len(crowd):,} watchers, {each_kb:.1f} KB each")
        yield _low(
            "watching.memory",
            f"memory of an idle watcher, of {len(crowd):,} on one worker",
            "KB",
            [each_kb],
            16,
        )
        writer = Connection(node.url)
        yield from _reached(stage, writer, crowd, few, _FEW_ROUTE, 60)
        yield from _reached(stage, writer, crowd, many, _MANY_ROUTE, 300)
        writer.close()


def _reached(
    stage: Stage, writer: Connection, crowd: Watchers, expected: list[int], route: int, limit_ms: float
) -> Iterator[Outcome]:
    count = stage.plan.rounds * _CHANGES_A_ROUND
    changes = [_one_change(writer, crowd, expected, route) for _ in range(count)]
    lasts = [max(waits) for waits in changes]
    stage.say(f"a change reached {len(expected):,} watchers after {median(lasts):.0f} ms")
    what = f"commit to the event at the last of {len(expected):,} matching watchers, of {len(crowd):,}"
    yield _low(f"watching.{len(expected)}", what, "ms", lasts, limit_ms)
    together = sorted(wait for waits in changes for wait in waits)
    points = [(p, together[min(len(together) - 1, len(together) * p // 100)]) for p in _PERCENTS]
    yield Series("watching", f"{len(expected):,} matching watchers", points)


def _one_change(writer: Connection, crowd: Watchers, expected: list[int], route: int) -> list[float]:
    url = f"https://told.example.com/{time.time_ns()}"
    writer.send(send("PUT", path_of(route), put_body(url)))
    seen_s = crowd.seen_s(expected, url.encode())
    committed_s = updated_at_s(writer.receive())
    return [(moment - committed_s) * 1000 for moment in seen_s]


def _low(name: str, what: str, unit: str, values: list[float], limit: float) -> Figure:
    return Figure(name, what, unit, values, target=at_most(limit), is_better_high=False)
