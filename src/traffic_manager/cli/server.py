"""The commands that run on the server's machine: serve, migrate, relay, config."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the server's commands to *app*."""
