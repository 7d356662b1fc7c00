"""Resolve over HTTP: against nginx answering a constant, etcd's JSON gateway, and the original system."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.figures import Figure, Outcome, Series, Target, at_least, at_most
from benchmarks.load import SERIAL, Contender, Load, Requests, WrongAnswers, ask, get, in_turn, send
from benchmarks.peers import EtcdServer, NginxServer
from benchmarks.peers.etcd import encoded, range_body
from benchmarks.routes import key_of, resolve_path, spread, url_of
from benchmarks.stage import Stage

ROUTES = 100_000
DISTINCT = 5_000
WORKERS = 2
# What the system that this one replaces answered with a warm cache, measured once on the same kind of machine.
ORIGINAL_RATE = 746.0
_SIX_HEADERS = {
    "User-Agent": "checkout/4.2 (linux; amd64)",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-GB,en;q=0.8",
    "Connection": "keep-alive",
    "X-Forwarded-For": "203.0.113.7, 198.51.100.23",
}
_CHECKED = 25


def resolve(stage: Stage) -> Iterator[Outcome]:
    """Yield the rates and tails of a resolve, side by side."""
    chosen = spread(DISTINCT, ROUTES)
    plain = [get(resolve_path(i)) for i in chosen]
    database = stage.database(ROUTES)
    with stage.node(database, WORKERS) as node, EtcdServer() as etcd:
        etcd.fill([("/".join(key_of(i)), url_of(i)) for i in range(ROUTES)])
        with NginxServer(ask(node.url, plain[0])[1].decode(), WORKERS) as nginx:
            ours, theirs = (node.url, [node.pid]), (nginx.url, [nginx.pid])
            contenders = {
                "ours": _contender(ours, plain),
                "nginx": _contender(theirs, plain),
                "ours, six headers": _contender(ours, _with_headers(chosen)),
                "nginx, six headers": _contender(theirs, _with_headers(chosen)),
                "ours, documented route": _contender(ours, _documented(chosen)),
                "etcd": _contender((etcd.url, [etcd.pid]), _ranges(chosen)),
            }
            _check(contenders, chosen)
            loads = in_turn(contenders, stage.plan.rounds, stage.plan.seconds, stage.say)
            _check(contenders, chosen)
    yield from _figures(loads)
    for name, runs in loads.items():
        yield Series("resolve-rate", name, [(0, median(load.rate for load in runs))])
    yield Series("resolve-rate", "the original system, warm cache", [(0, ORIGINAL_RATE)])
    for name in ("ours", "nginx", "etcd"):
        yield Series("latency", name, _percentiles(loads[name]))


def _figures(loads: dict[str, list[Load]]) -> Iterator[Figure]:
    ours, nginx = loads["ours"], loads["nginx"]
    what = f"resolve, {ROUTES:,} routes, {DISTINCT:,} distinct, 64 connections, {WORKERS} workers each"
    constant = "nginx answering a constant"
    yield rates("resolve.nginx", what, ours, constant, nginx, at_least(0.65, aim=0.8))
    yield cpu("resolve.cpu", "server CPU for one of these", ours, constant, nginx)
    tails = [[load.latency_ms[99] for load in runs] for runs in (ours, nginx)]
    yield Figure(
        "resolve.p99", "p99 of the same", "ms", tails[0], constant, tails[1], at_most(2), is_better_high=False
    )
    headers = "the same with six client headers and a fresh correlation id each"
    with_headers = loads["ours, six headers"], "nginx, same requests", loads["nginx, six headers"]
    yield rates("resolve.headers", headers, *with_headers, at_least(0.6))
    gateway = "etcd 3.6, serializable range through its JSON gateway"
    yield rates("resolve.etcd", what, ours, gateway, loads["etcd"], at_least(5))
    original = [ORIGINAL_RATE] * len(ours)
    rate = [load.rate for load in ours]
    warm = f"the original system, warm cache: {ORIGINAL_RATE:.0f}/s"
    yield Figure("resolve.original", what, "/s", rate, warm, original, at_least(50))
    yield rates(
        "resolve.documented", what, ours, "the documented route, no lane", loads["ours, documented route"]
    )


def rates(
    name: str,
    what: str,
    ours: Sequence[Load],
    peer: str,
    theirs: Sequence[Load],
    target: Target | None = None,
) -> Figure:
    """Return the figure of two rates, with the CPU time of both servers beside it."""
    used = f"server CPU {_cpu(ours)} µs a request, there {_cpu(theirs)} µs"
    busy = f"generator {_generator(ours)} of a core, there {_generator(theirs)}"
    rate = [[load.rate for load in runs] for runs in (ours, theirs)]
    return Figure(name, what, "/s", rate[0], peer, rate[1], target, note=f"{used}; {busy}")


def cpu(name: str, what: str, ours: Sequence[Load], peer: str, theirs: Sequence[Load]) -> Figure:
    """Return the figure of two servers' CPU time per request, which other work on the machine disturbs least."""
    used = [[load.cpu_us for load in runs] for runs in (ours, theirs)]
    return Figure(name, what, "µs", used[0], peer, used[1], is_better_high=False)


def _cpu(loads: Sequence[Load]) -> str:
    return f"{median(load.cpu_us for load in loads):.0f}"


def _generator(loads: Sequence[Load]) -> str:
    return f"{median(load.generator for load in loads):.0%}"


def _contender(server: tuple[str, list[int]], texts: list[bytes]) -> Contender:
    url, roots = server
    return Contender(url, Requests(texts), roots)


def _with_headers(chosen: Sequence[int]) -> list[bytes]:
    headers = {**_SIX_HEADERS, "X-Correlation-ID": SERIAL.decode()}
    return [get(resolve_path(i), headers) for i in chosen]


def _documented(chosen: Sequence[int]) -> list[bytes]:
    # A percent-encoded letter: the same question, which the lane does not take.
    return [get(resolve_path(i).replace("env=prod", "env=%70rod")) for i in chosen]


def _ranges(chosen: Sequence[int]) -> list[bytes]:
    return [send("POST", "/v3/kv/range", range_body("/".join(key_of(i)))) for i in chosen]


def _check(contenders: dict[str, Contender], chosen: Sequence[int]) -> None:
    """Raise WrongAnswers unless some of the requests get the URL that they ask for."""
    for name, contender in contenders.items():
        if name.startswith("nginx"):
            continue
        for i, text in list(zip(chosen, contender.requests.texts, strict=True))[:_CHECKED]:
            status, body = ask(contender.url, text)
            found = _url_in(json.loads(body))
            if status != 200 or found not in (url_of(i), encoded(url_of(i))):
                raise WrongAnswers(f"{name}: {status} {body!r} for route {i}")


def _url_in(document: dict[str, object]) -> object:
    found = document.get("kvs")
    return found[0]["value"] if isinstance(found, list) else document.get("url")


def _percentiles(loads: Sequence[Load]) -> list[tuple[float, float]]:
    percents = loads[0].latency_ms
    return [(percent, median(load.latency_ms[percent] for load in loads)) for percent in percents]
