"""`python -m tests.kit.previews`: draw every dashboard into docs/dashboards, from two real nodes in good times and
bad.

It takes six minutes, starts all servers itself, and asks a real Prometheus the panels' own questions.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kit.drawing import Band, Curve, Span, dashboard
from tests.kit.observed import Observed, Servers, observed
from tests.kit.questions import chosen, legend_of
from tests.kit.traffic import Traffic
from tests.monitoring.observability import ROOT, Panel, panels
from tests.servers import KafkaServer, PostgresServer, RedisServer, Server

FOLDER = ROOT / "docs" / "dashboards"
TITLES = {
    "overview": "Overview",
    "routes": "Routes and changes",
    "events": "Events",
    "database": "Database and cache",
    "nodes": "Nodes and workers",
    "security": "Security",
}
_STEP_S = 4.0
_CALM_S, _AWAY_S, _AFTER_S = 45.0, 35.0, 20.0
# Long enough that events are late.
_KAFKA_AWAY_S = 70.0


def main() -> int:
    with ExitStack() as stack:
        servers = Servers(PostgresServer(), RedisServer(), KafkaServer())
        for server in (servers.postgres, servers.redis, servers.kafka):
            stack.enter_context(server)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stand = stack.enter_context(observed(servers, folder))
        traffic = stack.enter_context(Traffic(stand.nodes, stand.keys).going())
        span = _lived_through(stand, traffic)
        FOLDER.mkdir(exist_ok=True)
        for name, title in TITLES.items():
            drawn = [(panel, _curves(stand, panel, span)) for panel in panels() if panel.dashboard == name]
            (FOLDER / f"{name}.svg").write_text(dashboard(title, drawn, span))
            print(FOLDER / f"{name}.svg", flush=True)
    return 0


def _lived_through(stand: Observed, traffic: Traffic) -> Span:
    """Return from when to when it went how, after all that has happened."""
    _go_on(traffic, _AFTER_S)
    begin = time.time()
    bands: list[Band] = []
    _go_on(traffic, _CALM_S)
    with _noted(bands, "the database is away"), _away(stand.servers.postgres):
        _go_on(traffic, _AWAY_S)
    _go_on(traffic, _AFTER_S)
    with _noted(bands, "Kafka does not answer"), _frozen(stand.servers.kafka):
        _go_on(traffic, _KAFKA_AWAY_S)
    _go_on(traffic, _AFTER_S)
    with _noted(bands, "Redis is away"), _away(stand.servers.redis):
        _go_on(traffic, _AWAY_S)
    _go_on(traffic, _AFTER_S)
    with _noted(bands, "node two is started again"):
        stand.nodes[1].stop()
        stand.nodes[1].start()
    _go_on(traffic, _AFTER_S)
    return Span(begin, time.time(), bands)


def _go_on(traffic: Traffic, seconds: float) -> None:
    """Let time pass, with more and fewer callers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        traffic.pace = 1.0 + 0.5 * math.sin(time.monotonic() / 15)
        time.sleep(0.5)


@contextmanager
def _noted(bands: list[Band], what: str) -> Iterator[None]:
    begin = time.time()
    yield
    bands.append(Band(what, begin, time.time()))


@contextmanager
def _away(server: Server) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def _frozen(server: Server) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


def _curves(stand: Observed, panel: Panel, span: Span) -> Sequence[Curve]:
    """Return what Prometheus answers to the questions of *panel*."""
    found = []
    for legend, question in panel.questions.items():
        for series in stand.prometheus.over(chosen(question), span.begin, span.end, _STEP_S):
            points = [(float(moment), float(value)) for moment, value in series["values"]]
            finite = [(moment, value) for moment, value in points if math.isfinite(value)]
            if finite:
                found.append(Curve(_short(stand, legend_of(legend, series["metric"])), finite))
    return found


def _short(stand: Observed, legend: str) -> str:
    """Return *legend* with names in the place of addresses, which would be other ones each time."""
    for node, name in zip(stand.nodes, ("node-1", "node-2"), strict=True):
        legend = legend.replace(node.url.removeprefix("https://"), name)
    return legend


if __name__ == "__main__":
    sys.exit(main())
