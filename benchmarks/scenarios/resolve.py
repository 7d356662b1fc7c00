"""Resolve over HTTP: against nginx answering a constant, etcd's JSON gateway, and the original system."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.node import Node

from benchmarks.figures import Figure, Outcome, Series, Target, at_least, at_most
from benchmarks.load import SERIAL, Contender, Load, Requests, WrongAnswers, ask, get, in_turn, send
from benchmarks.peers import EtcdServer, NginxServer
from benchmarks.peers.etcd import decoded, range_body
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
# Of a tenant and of the key's owner, higher than anybody can ask: what is measured is the counting.
_LIMITS = {"LIMIT_TENANT_RESOLVES": "1000000000", "LIMIT_PRINCIPAL_RESOLVES": "1000000000"}
_CHECKED = 25
_BATCH = 1_000


def resolve(stage: Stage) -> Iterator[Outcome]:
    """Yield the rates and tails of a resolve, side by side."""
    database = stage.database(ROUTES)
    with ExitStack() as things:
        open_node = things.enter_context(stage.node(database, WORKERS))
        node = things.enter_context(stage.node(database, WORKERS, **REQUIRED))
        limited = things.enter_context(stage.node(database, WORKERS, **REQUIRED, **_LIMITS))
        key = bearer(a_key_for(node, "resolver:*/*"))
        etcd = things.enter_context(EtcdServer())
        etcd.fill([("/".join(key_of(i)), url_of(i)) for i in range(ROUTES)])
        constant = ask(open_node.url, get(resolve_path(0)))[1].decode()
        nginx = things.enter_context(NginxServer(constant, WORKERS))
        contenders = _contenders(node, open_node, limited, nginx, etcd, key)
        _check(contenders)
        loads = in_turn(contenders, stage.plan.rounds, stage.plan.seconds, stage.say)
        _check(contenders)
        # Afterwards: they would drive out what a server keeps for the others.
        distinct = {
            "ours, all distinct": Contender(node.url, Requests(_all_distinct(key)), [node.pid]),
            "nginx, all distinct": Contender(nginx.url, Requests(_all_distinct(key)), [nginx.pid]),
        }
        loads |= in_turn(distinct, stage.plan.rounds, stage.plan.seconds, stage.say)
    yield from _figures(loads)
    for name, runs in loads.items():
        yield Series("resolve-rate", name, [(0, median(load.rate for load in runs))])
    yield Series("resolve-rate", "the original system, warm cache", [(0, ORIGINAL_RATE)])
    for name in ("ours", "nginx", "etcd"):
        yield Series("latency", name, _percentiles(loads[name]))


def _figures(loads: dict[str, list[Load]]) -> Iterator[Figure]:
    ours, nginx = loads["ours"], loads["nginx"]
    what = f"resolve, {ROUTES:,} routes, {DISTINCT:,} distinct, 64 connections, {WORKERS} workers each, with API keys"
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
    slow = "the documented route, no lane"
    yield rates("resolve.documented", what, ours, slow, loads["ours, documented route"])
    open_to_all = "the same server with AUTH_MODE=open, no key in the request"
    yield rates("resolve.keys", what, ours, open_to_all, loads["ours, no keys"])
    unlimited = "the same server without limits"
    yield rates("resolve.limits", f"{what}, and limits", loads["ours, limits"], unlimited, ours)
    distinct = f"the same, all {ROUTES:,} in turn: more than heads and answers are kept for"
    yield rates(
        "resolve.distinct", distinct, loads["ours, all distinct"], constant, loads["nginx, all distinct"]
    )
    yield _batch(loads["ours, batches"], ours)


def _batch(batches: Sequence[Load], single: Sequence[Load]) -> Figure:
    keys, resolves = [load.rate * _BATCH for load in batches], [load.rate for load in single]
    what = f"keys resolved in batches of {_BATCH:,}, 4 connections"
    tail_ms, used_us = (
        median(of) for of in zip(*((load.latency_ms[99], load.cpu_us) for load in batches), strict=True)
    )
    note = f"p99 of a batch {tail_ms:.0f} ms; server CPU {used_us / _BATCH:.1f} µs a key"
    return Figure("resolve.batch", what, "/s", keys, "one by one, 64 connections", resolves, note=note)


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


def _contenders(
    node: Node, open_node: Node, limited: Node, nginx: NginxServer, etcd: EtcdServer, key: dict[str, str]
) -> dict[str, Contender]:
    """Ours asks for a key unless told otherwise, and nginx gets the same requests."""
    chosen = spread(DISTINCT, ROUTES)
    plain = [get(resolve_path(i), key) for i in chosen]
    headers = {**key, **_SIX_HEADERS, "X-Correlation-ID": SERIAL.decode()}
    with_headers = [get(resolve_path(i), headers) for i in chosen]
    # A percent-encoded letter: the same question, which the lane does not take.
    documented = [get(resolve_path(i).replace("env=prod", "env=%70rod"), key) for i in chosen]
    ours, theirs = [node.pid], [nginx.pid]
    return {
        "ours": Contender(node.url, Requests(plain), ours),
        "ours, limits": Contender(limited.url, Requests(plain), [limited.pid]),
        "nginx": Contender(nginx.url, Requests(plain), theirs),
        "ours, six headers": Contender(node.url, Requests(with_headers), ours),
        "nginx, six headers": Contender(nginx.url, Requests(with_headers), theirs),
        "ours, no keys": Contender(open_node.url, Requests(_plain(chosen)), [open_node.pid]),
        "ours, batches": Contender(node.url, Requests(_batches(chosen, key), 4), ours),
        "ours, documented route": Contender(node.url, Requests(documented), ours),
        "etcd": Contender(etcd.url, Requests(_ranges(chosen)), [etcd.pid]),
    }


def _plain(chosen: Sequence[int]) -> list[bytes]:
    return [get(resolve_path(i)) for i in chosen]


def _all_distinct(key: dict[str, str]) -> list[bytes]:
    return [get(resolve_path(i), key) for i in spread(ROUTES, ROUTES)]


def _batches(chosen: Sequence[int], key: dict[str, str]) -> list[bytes]:
    parts = [chosen[first : first + _BATCH] for first in range(0, len(chosen), _BATCH)]
    bodies = [json.dumps({"keys": [key_of(i)._asdict() for i in part]}).encode() for part in parts]
    return [send("POST", "/api/v1/routes/resolve", body, key) for body in bodies]


def _ranges(chosen: Sequence[int]) -> list[bytes]:
    return [send("POST", "/v3/kv/range", range_body("/".join(key_of(i)))) for i in chosen]


def _check(contenders: dict[str, Contender]) -> None:
    """Raise WrongAnswers unless some of the requests get the URL that they ask for."""
    for name, contender in contenders.items():
        if not name.startswith("nginx"):
            for text in contender.requests.texts[:_CHECKED]:
                _check_one(name, contender.url, text)


def _check_one(name: str, url: str, request: bytes) -> None:
    status, body = ask(url, request)
    if status != 200 or _urls_in(json.loads(body)) != _asked_for(request):
        raise WrongAnswers(f"{name}: {status} {body[:500]!r} to {request[:500]!r}")


def _asked_for(request: bytes) -> list[str]:
    """Return the URLs that a right answer to *request* holds, in its order."""
    text = re.sub(r'"key": "([^"]+)"', lambda found: decoded(found[1]), request.decode())
    return [url_of(int(number)) for number in re.findall(r"service-(\d+)", text)]


def _urls_in(document: dict[str, Any]) -> list[str]:  # Any: JSON
    if "kvs" in document:
        return [decoded(pair["value"]) for pair in document["kvs"]]
    return [result["url"] for result in document.get("results", [document])]


def _percentiles(loads: Sequence[Load]) -> list[tuple[float, float]]:
    percents = loads[0].latency_ms
    return [(percent, median(load.latency_ms[percent] for load in loads)) for percent in percents]
