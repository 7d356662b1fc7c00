"""The command bench: how fast a server answers at a rate that the caller gives."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import FAILED, INTERRUPTED, UNREACHABLE, Failure, failure_of, tell, told
from traffic_manager.cli.output import Format

if TYPE_CHECKING:
    from traffic_manager.cli.load.own_routes import OwnRoutes
    from traffic_manager.cli.load.plan import Load

# For so long a change that makes or deletes the routes is sent again: a server under test may be away for a while.
_PATIENCE_S = 30.0

Rate = Annotated[float, typer.Option("--rate", min=0, max=1e6, metavar="N", help="Resolves a second.")]
Changes = Annotated[float, typer.Option("--changes", min=0, max=1e5, metavar="N", help="Changes a second.")]
Routes = Annotated[
    int, typer.Option("--routes", min=1, max=1_000_000, metavar="N", help="How many routes to make for it.")
]
Watchers = Annotated[
    int, typer.Option("--watchers", min=0, max=50_000, metavar="N", help="Streams that watch the changes.")
]
Connections = Annotated[
    int, typer.Option("--connections", min=1, max=50_000, metavar="N", help="Connections for the requests.")
]
Processes = Annotated[
    int, typer.Option("--processes", min=1, max=64, metavar="N", help="Processes that make the load.")
]
Duration = Annotated[
    float, typer.Option("--duration", min=0.1, max=86_400, metavar="SECONDS", help="How long to measure.")
]
WarmUp = Annotated[
    float, typer.Option("--warm-up", min=0, max=3600, metavar="SECONDS", help="The same load before that.")
]
Tenant = Annotated[str, typer.Option("--tenant", callback=options.checked_name, help="Whose routes to make.")]
Url = Annotated[str, typer.Option("--url", metavar="URL", help="Where the routes lead to, and a number.")]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench")(bench)


def bench(
    rate: Rate = 100.0,
    changes: Changes = 1.0,
    routes: Routes = 100,
    watchers: Watchers = 0,
    connections: Connections = 16,
    processes: Processes = 1,
    duration: Duration = 10.0,
    warm_up: WarmUp = 2.0,
    tenant: Tenant = "bench",
    url: Url = "https://bench.example.com",
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Measure how fast a server answers at a constant rate of requests, with routes that are made for it."""
    from traffic_manager.cli.load.plan import Load, Server

    if not rate and not changes:
        raise typer.BadParameter("--rate, --changes: one of them must be above 0")
    if watchers and not changes:
        raise typer.BadParameter("--watchers: have nothing to see without --changes")
    if connections < processes:
        raise typer.BadParameter("--connections: each of the --processes needs one")
    files = options.files()
    load = Load(
        server=Server(server.rstrip("/"), options.api_key(), files.authorities, files.certificate),
        tenant=tenant,
        service=f"bench-{secrets.token_hex(4)}",
        routes=routes,
        url=url.rstrip("/"),
        resolves=rate,
        changes=changes,
        watchers=watchers,
        connections=connections,
        warm_up_s=warm_up,
        duration_s=duration,
        timeout_s=timeout,
    )
    _bench(load, processes, form)


def _bench(load: Load, processes: int, form: Format) -> None:
    from traffic_manager.cli.load.own_routes import OwnRoutes

    _end_like_ctrl_c()
    with told(), options.connect(load.server.url, load.timeout_s, retry_s=_PATIENCE_S) as client:
        own = OwnRoutes(client, load.tenant, load.service, load.routes, load.url, output.note)
        with _leftovers_told(own), own.made():
            code = _measure(load, processes, form)
    if code:
        raise typer.Exit(code)


def _end_like_ctrl_c() -> None:
    """Have whatever ends this command let it take its routes away."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _measure(load: Load, processes: int, form: Format) -> int:
    """Do it and tell the figures; return the exit code."""
    from traffic_manager.cli.load.processes import CannotBegin, measured
    from traffic_manager.cli.load.report import Report

    try:
        ledger, was_interrupted = measured(load, processes, output.note)
    except CannotBegin as error:
        what = f"{load.connections} connections and {load.watchers} watchers cannot be had: {error}"
        hint = "see that the server takes so many, and this machine's limit of open files (`ulimit -n`)"
        raise tell(Failure(UNREACHABLE, what, hint)) from None
    report = Report(load, processes, ledger)
    if form is Format.JSON:
        output.document(report.document(was_interrupted=was_interrupted))
    else:
        report.show()
    if was_interrupted:
        return INTERRUPTED
    if report.kept_up:
        return 0
    what = f"the generator could not keep up, so these are not the server's figures alone: {report.lateness}"
    raise tell(Failure(FAILED, what, "lower --rate, raise --processes, or run it on a machine of its own"))


@contextmanager
def _leftovers_told(own: OwnRoutes) -> Iterator[None]:
    from traffic_manager.cli.load.own_routes import RoutesLeft

    try:
        yield
    except RoutesLeft as error:
        code = failure_of(error.why).code if error.why else INTERRUPTED
        why = f": {failure_of(error.why).what}" if error.why else ""
        what = f"routes {own.shown}/... are left behind{why}"
        hint = "`traffic-manager routes list` with --tenant and --service finds them, `routes delete` deletes them"
        raise tell(Failure(code, what, hint)) from None
