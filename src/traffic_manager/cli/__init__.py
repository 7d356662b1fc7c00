"""The command `traffic-manager`: the server's own commands, and a client of the HTTP API.

Modules imported here must stay light, because every start pays for them; commands import what is heavy
(`client`, rich, the server) when they run.
"""

from __future__ import annotations

import os
import signal
import sys

import typer

from traffic_manager import __version__
from traffic_manager.cli import (
    audit,
    bench,
    changes,
    copying,
    doctor,
    health,
    keys,
    limits,
    options,
    routes,
    server,
    top,
    transfer,
    writes,
)
from traffic_manager.cli.exits import HELP

app = typer.Typer(
    name="traffic-manager",
    help="Which URL serves this service of this tenant, environment and version, right now?",
    epilog=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"traffic-manager {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the program's version."
    ),
    key_file: options.KeyFile = None,
    ca_file: options.CaFile = None,
    cert_file: options.CertFile = None,
    reason: options.Reason = None,
) -> None:
    """Which URL serves this service of this tenant, environment and version, right now?"""
    options.use_files(options.Files(key_file, ca_file, cert_file))
    options.use_reason(reason)


routes_app = typer.Typer(help="Read and change routes.", no_args_is_help=True)
server.register(app)
routes.register(app, routes_app)
writes.register(routes_app)
transfer.register(routes_app)
app.add_typer(routes_app, name="routes")
changes.register(app)
health.register(app)
keys.register(app)
limits.register(app)
audit.register(app)
copying.register(app)
doctor.register(app)
top.register(app)
bench.register(app)


def main() -> None:
    """Run the command line and exit with a code of `exits`."""
    # The kernel keeps from process 1, which is what a container starts, every signal that it does not handle: SIGTERM
    # would end no command but those that handle it themselves.
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    app(prog_name="traffic-manager")
