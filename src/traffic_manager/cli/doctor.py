"""The command doctor: looks at everything that a server needs, and says in plain words what to mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import FAILED
from traffic_manager.cli.on_this_machine import start_logging
from traffic_manager.cli.output import Format
from traffic_manager.errors import StartRefused

if TYPE_CHECKING:
    from traffic_manager.cli.checkup import Finding
    from traffic_manager.cli.checkup.server import Said
    from traffic_manager.config.settings import Settings


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("doctor")(doctor)


def doctor(
    support: Annotated[
        Path | None,
        typer.Option(
            "--support",
            dir_okay=False,
            metavar="FILE",
            help="Also write a bundle (.tar.gz) for whoever helps you: no secrets, no routes.",
        ),
    ] = None,
    form: options.Output = Format.TABLE,
) -> None:
    """Check settings, connections, permissions, clocks, versions, topic and indexes. Exit code 1: mend something."""
    from traffic_manager.cli.checkup import Level

    settings, findings = _read_settings()
    said: Said | None = None
    if settings is not None:
        from traffic_manager.cli.checkup import server

        start_logging(settings, "CRITICAL")
        said = server.ask(settings)
        findings += _without_secrets(_look(settings, said))
    _show(findings, form)
    if support is not None:
        _write(support, settings, findings, said)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(FAILED)


def _read_settings() -> tuple[Settings | None, list[Finding]]:
    """Return the settings, None if they are no good, and what is to be said of them."""
    from traffic_manager.cli.checkup import good, machine, problem
    from traffic_manager.config.loading import load_settings
    from traffic_manager.inheritance import empty_memory

    try:
        settings = load_settings()
    except StartRefused as refused:
        return None, [problem("settings", line, "docs/settings.md") for line in str(refused).splitlines()]
    try:
        memory = empty_memory(settings)
    except StartRefused as refused:
        fix = "docs/settings.md, docs/security.md"
        return settings, [problem("settings", line, fix) for line in str(refused).splitlines()]
    return settings, [
        good("settings", f"good, for {settings.app.environment}"),
        *machine.certificate(memory.certificates),
    ]


def _look(settings: Settings, said: Said) -> Iterator[Finding]:
    from traffic_manager.cli.checkup import database, kafka, machine, redis, server

    yield from machine.look(settings)
    # Without their libraries, which `machine` tells of, there is nothing to ask with.
    for findings in (database.look(settings), redis.look(settings.redis), kafka.look(settings.kafka)):
        try:
            yield from findings
        except ModuleNotFoundError:
            continue
    yield from server.look(settings, said)


def _without_secrets(findings: Iterator[Finding]) -> list[Finding]:
    """Return *findings*: what drivers and servers say is taken in, and may say anything."""
    from traffic_manager.config.loading import without_secrets

    return [finding._replace(what=without_secrets(finding.what)) for finding in findings]


def _show(findings: Sequence[Finding], form: Format) -> None:
    if form is Format.JSON:
        return output.document({"findings": [finding._asdict() for finding in findings]})
    rows = [(f.check, f.level.value, f.what + (f"\n→ {f.fix}" if f.fix else "")) for f in findings]
    return output.table(("check", "status", "what"), rows)


def _write(file: Path, settings: Settings | None, findings: Sequence[Finding], said: Said | None) -> None:
    from traffic_manager.cli.checkup.support import write

    try:
        write(file, settings, findings, said)
    except OSError as error:
        output.error(f"{file}: {error.strerror}")
        raise typer.Exit(FAILED) from None
    output.note(f"Wrote {file}: look through it before you give it away.")
