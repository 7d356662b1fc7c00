"""The command health: is the server ready, and what do its checks say?"""

from __future__ import annotations

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import FAILED, told
from traffic_manager.cli.output import Format


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("health")(health)


def health(
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show the server's checks. Exit code 0: ready; 1: not ready; 5: it cannot be reached."""
    with told(), options.connect(server, timeout) as client:
        readiness = client.ready()
    if form is Format.JSON:
        output.document(readiness.document)
    else:
        rows = [(name, _text(c, "status"), _text(c, "message")) for name, c in readiness.checks.items()]
        output.table(("check", "status", "message"), rows)
        output.line("ready" if readiness.is_ready else "not ready")
    if not readiness.is_ready:
        raise typer.Exit(FAILED)


def _text(check: object, name: str) -> str:
    return str(check.get(name, "")) if isinstance(check, dict) else ""
