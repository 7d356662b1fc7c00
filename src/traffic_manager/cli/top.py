"""The command top: what nodes are doing now, again and again, from their metrics and health."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import FAILED, told
from traffic_manager.cli.output import Format

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from traffic_manager.cli.figures import Figures, Sample
    from traffic_manager.client import Client, MirrorState

# So many looks back the little chart goes.
_LOOKS = 40
# Which worker takes a connection is the kernel's choice, and often the same one twice.
_CONNECTIONS_PER_WORKER = 20
_WORKER_COLUMNS = ("node", "worker#", "revision#", "behind#", "routes#")
# Beside the figures and the workers: the time, an empty line, the heading of the workers.
_OTHER_LINES = 4


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("top")(top)


def top(
    nodes: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="URL", help="A node to look at; once for each. Default: --server."),
    ] = None,
    every_s: Annotated[
        float,
        typer.Option(
            "--every", min=0.2, max=60, metavar="SECONDS", help="How long to wait between two looks."
        ),
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print the figures of one such time, and end.")
    ] = False,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show rates, latencies, hit ratio, lag and staleness of nodes and their workers, until Ctrl-C."""
    if form is Format.JSON and not once:
        raise typer.BadParameter("--output json: only with --once")
    watched = [_Node(url, timeout) for url in nodes or [server]]
    if once:
        _once(watched, every_s, form)
    else:
        _for_ever(watched, every_s)


class _Node:
    """One node, looked at over a connection for its metrics and one for each of its workers."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._client = options.connect(url, timeout_s)
        self._workers: dict[int, Client] = {}
        self._before: Sample | None = None
        self.figures: Figures | None = None
        self.workers: Sequence[MirrorState] = ()
        self.state = "-"
        self.resolves: deque[float] = deque(maxlen=_LOOKS)

    @property
    def is_seen(self) -> bool:
        """True if the last look saw it."""
        return self._before is not None

    def look(self) -> None:
        """Take in how it is now; the figures are of the time since the look before. Raises ClientError, or
        ValueError."""
        from traffic_manager.cli.figures import figures, sample_of

        now = sample_of(self._client.metrics())
        if self._before is not None:
            self.figures = figures(self._before, now)
            self.resolves.append(self.figures.resolves)
        self._before = now
        readiness = self._client.ready()
        bad = [name for name, check in readiness.checks.items() if _is_bad(check)]
        self.state = ("ready" if readiness.is_ready else "not ready") + (
            f", not {', '.join(bad)}" if bad else ""
        )
        self.workers = self._ask_workers()

    def look_again(self) -> None:
        """As `look`, but a node that is away is told as its state."""
        from traffic_manager.client import ClientError

        try:
            self.look()
        except (ClientError, ValueError) as error:
            self.state, self.figures, self.workers, self._before = str(error), None, (), None
            self._workers.clear()

    def _ask_workers(self) -> Sequence[MirrorState]:
        """Return where each worker stands; none where we may not ask."""
        from traffic_manager.client import Refused

        try:
            if not self._workers:
                self._meet_workers()
            return [client.mirror().value for _, client in sorted(self._workers.items())]
        except Refused:
            return ()

    def _meet_workers(self) -> None:
        wanted, tries = 1, 0
        while len(self._workers) < wanted and tries < _CONNECTIONS_PER_WORKER * wanted:
            client = options.connect(self.url, self._timeout_s)
            state = client.mirror().value
            if state.worker in self._workers:
                client.close()
            self._workers.setdefault(state.worker, client)
            wanted, tries = state.workers, tries + 1


def _is_bad(check: object) -> bool:
    return isinstance(check, dict) and check.get("status") in ("degraded", "unhealthy")


def _once(nodes: Sequence[_Node], every_s: float, form: Format) -> None:
    with told():
        for node in nodes:
            _first_look(node)
        time.sleep(every_s)
        for node in nodes:
            node.look()
    if form is Format.JSON:
        output.document({"nodes": [_document(node) for node in nodes]})
        return
    output.table(("", *(node.url for node in nodes)), _rows(nodes))
    output.table(_WORKER_COLUMNS, _worker_rows(nodes))


def _first_look(node: _Node) -> None:
    try:
        node.look()
    except ValueError as error:
        output.error(f"{node.url}: {error}")
        output.hint("check TM_URL, --server or --node")
        raise typer.Exit(FAILED) from None


def _for_ever(nodes: Sequence[_Node], every_s: float) -> None:
    from rich.live import Live

    _first_looks(nodes)
    if not sys.stdout.isatty():
        raise typer.BadParameter("--once: is for pipes and files; without it this needs a terminal")
    with Live(screen=True, auto_refresh=False) as live:
        live.update(_view(nodes, live.console), refresh=True)
        while True:
            time.sleep(every_s)
            for node in nodes:
                node.look_again()
            live.update(_view(nodes, live.console), refresh=True)


def _first_looks(nodes: Sequence[_Node]) -> None:
    """Have a first look at all. If none is seen, most likely it was called wrongly, and ends as any command does."""
    for node in nodes:
        node.look_again()
    if all(not node.is_seen for node in nodes):
        with told():
            _first_look(nodes[0])


def _view(nodes: Sequence[_Node], console: Console) -> Table:
    """Return what fits the terminal: of the workers those that are furthest behind."""
    from rich.table import Table

    figures = output.as_table(("", *(node.url for node in nodes)), _rows(nodes))
    workers = sorted(_worker_rows(nodes), key=lambda row: -int(row[3].replace(",", "")))
    room = max(0, console.height - len(console.render_lines(figures)) - _OTHER_LINES)
    left_out = len(workers) - room
    more = f"   workers that do not fit: {left_out}" if left_out > 0 else ""
    shown = Table.grid()
    shown.add_row(f"{time.strftime('%H:%M:%S')}   Ctrl-C ends{more}")
    shown.add_row(figures)
    shown.add_row("")
    shown.add_row(output.as_table(_WORKER_COLUMNS, workers[:room]))
    return shown


def _document(node: _Node) -> dict[str, object]:
    return {
        "url": node.url,
        "state": node.state,
        "figures": asdict(node.figures) if node.figures else None,
        "workers": [asdict(worker) for worker in node.workers],
    }


def _rows(nodes: Sequence[_Node]) -> list[list[str]]:
    columns = [_column(node) for node in nodes]
    return [[name, *(column.get(name, "-") for column in columns)] for name in max(columns, key=len)]


def _column(node: _Node) -> dict[str, str]:
    found = node.figures
    if found is None:
        return {"state": node.state}
    return {
        "state": node.state,
        "resolves/s": f"{found.resolves:,.0f}",
        "  lately": output.chart(node.resolves),
        "  resolve p50, p99": f"{_ms(found.resolve_p50_s)}, {_ms(found.resolve_p99_s)}",
        "  hit ratio": "-" if found.hit_ratio is None else f"{found.hit_ratio:.2%}",
        "  flagged/s": f"{found.flagged:,.0f}",
        "writes/s": f"{found.writes:,.1f}",
        "  write p50, p99": f"{_ms(found.write_p50_s)}, {_ms(found.write_p99_s)}",
        "  failed/s": f"{found.write_failures:,.1f}",
        "revision": f"{found.applied_revision:,} of {found.head_revision:,}",
        "staleness": f"{found.staleness_s:.2f} s",
        "events waiting": f"{found.outbox_lag_events:,}, {found.outbox_lag_s:.0f} s",
        "database connections": f"{found.pool_in_use} of {found.pool_size} in use",
        "clients, watchers": f"{found.connections:,}, {found.watchers:,}",
        "turned away/s": f"{found.shed:,.0f}",
        "active routes": f"{found.routes:,}",
    }


def _worker_rows(nodes: Sequence[_Node]) -> list[tuple[str, ...]]:
    return [
        (node.url, str(w.worker), f"{w.revision:,}", f"{max(0, _head(node) - w.revision):,}", f"{w.routes:,}")
        for node in nodes
        for w in node.workers
    ]


def _head(node: _Node) -> int:
    return node.figures.head_revision if node.figures else 0


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.2f} ms"
