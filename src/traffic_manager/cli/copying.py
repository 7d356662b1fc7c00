"""The command db copy: moves all that there is from SQLite to PostgreSQL, or back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import output
from traffic_manager.cli.exits import FAILED
from traffic_manager.cli.on_this_machine import exit_with, given_settings, start_logging
from traffic_manager.cli.verify import tell_of
from traffic_manager.errors import StartRefused

if TYPE_CHECKING:
    from traffic_manager.config.settings import DbSettings
    from traffic_manager.db.copying import Copied

POSTGRES = "postgresql"


def register(app: typer.Typer) -> None:
    """Add the commands on databases to *app*."""
    databases = typer.Typer(help="Move a whole database.", no_args_is_help=True)
    databases.callback()(_databases)
    databases.command("copy")(copy)
    app.add_typer(databases, name="db")


def _databases() -> None:
    """Move a whole database."""


def copy(
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="PLACE", help="`postgresql`, the database of DB_HOST, or a file of SQLite."
        ),
    ],
    target: Annotated[
        str, typer.Option("--to", metavar="PLACE", help="The other of the two; it must be empty.")
    ],
) -> None:
    """Copy everything, history and epoch too, from SQLite to PostgreSQL or back. Stop all servers first."""
    if (source == POSTGRES) == (target == POSTGRES):
        raise typer.BadParameter(
            f"--from and --to: one must be `{POSTGRES}` and the other a file of SQLite; between two of a kind use "
            "pg_dump, or SQLite's .backup"
        )
    settings = given_settings()
    start_logging(settings, "ERROR")
    exit_with(lambda: _copy(_place(settings.db, source, is_there=True), _place(settings.db, target)))


def _place(settings: DbSettings, place: str, *, is_there: bool = False) -> DbSettings:
    """Return the settings for *place*. Raises StartRefused if there can be no such database."""
    if place != POSTGRES:
        path = Path(place)
        if is_there and not path.is_file():
            raise StartRefused(f"--from: there is no file {path}")
        return settings.model_copy(update={"host": None, "path": path})
    if not settings.is_postgres:
        raise StartRefused(f"DB_HOST: must be set: `{POSTGRES}` is the database of the settings DB_*")
    return settings


def _copy(source: DbSettings, target: DbSettings) -> int:
    from traffic_manager.db.copying import copy as run
    from traffic_manager.db.pool import opened_as_owner
    from traffic_manager.db.verification import verify

    with _progress() as progress:
        copied = run(source, target, progress)
    _tell(copied)
    with opened_as_owner(target) as database:
        differs = tell_of(verify(database), [])
    return FAILED if differs or copied.missed else 0


def _tell(copied: Copied) -> None:
    output.table(("table", "rows#"), [(name, f"{rows:,}") for name, rows in copied.rows.items()])
    output.note("Every row was read again at the target and is what was sent.")
    if copied.missed:
        output.error(f"{copied.missed:,} changes were made at the source meanwhile, and are not in the copy")
        output.hint("stop all servers and copy again, into another empty database")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while the block runs, if a person looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("rows written and compared"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("copy", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
