"""What the commands share that run on the server's machine: its settings, its log, its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from traffic_manager.cli.exits import FAILED
from traffic_manager.errors import SourceUnavailable, StartRefused

if TYPE_CHECKING:
    from traffic_manager.config.settings import Settings
    from traffic_manager.db.pool import Database
    from traffic_manager.monitoring.log_writer import LogWriter


@contextmanager
def opened_database(settings: Settings) -> Iterator[Database]:
    """Lend the database, if its tables are of this program's version."""
    from traffic_manager.db.migrate import check_schema
    from traffic_manager.db.pool import opened_as_owner

    with opened_as_owner(settings.db) as database:
        with database.reading() as session:
            check_schema(session, database.dialect)
        yield database


def given_settings() -> Settings:
    """Return the settings of this machine; tell what is wrong with them, and exit."""
    from traffic_manager.config.loading import load_settings

    try:
        return load_settings()
    except StartRefused as refused:
        raise _refused(refused) from refused


def start_logging(settings: Settings, level: str | None = None) -> LogWriter:
    """Log as the settings say; with *level* nothing below it, where a command's output is for programs."""
    from traffic_manager.monitoring.logs import configure_logging

    return configure_logging(level or settings.app.log_level, settings.app.logs_as_json)


def exit_with(work: Callable[[], int]) -> None:
    """Exit with what *work* returns, or tell why it cannot be done."""
    try:
        code = work()
    except (StartRefused, SourceUnavailable) as refused:
        raise _refused(refused) from refused
    raise typer.Exit(code)


def _refused(refused: StartRefused | SourceUnavailable) -> typer.Exit:
    for line in str(refused).splitlines():
        typer.echo(line, err=True)
    return typer.Exit(FAILED)
