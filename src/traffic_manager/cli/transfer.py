"""The commands routes import and routes export."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import FAILED, INTERRUPTED, Failure, failure_of, tell, told
from traffic_manager.cli.output import ExportFormat, Format
from traffic_manager.cli.route_files import FileFormat, LineProblem, RouteFile, parse

if TYPE_CHECKING:
    from traffic_manager.cli.batches import Batch, Outcome
    from traffic_manager.client import Client, Table

PROBLEMS_SHOWN = 20
_JSONL_ENDINGS = (".jsonl", ".ndjson", ".json")


def register(routes_app: typer.Typer) -> None:
    """Add these commands."""
    routes_app.command("import")(import_)
    routes_app.command("export")(export)


# Import


def _file(text: str) -> Path:
    # Not typer's own check of paths: in 0.29 it takes `-` for a name, although `allow_dash` is set.
    if text != "-" and not Path(text).exists():
        raise typer.BadParameter(f"{text!r} does not exist")
    return Path(text)


ImportFile = Annotated[
    Path,
    typer.Argument(parser=_file, metavar="FILE", help="CSV or JSON lines; - is stdin.", show_default=False),
]
ImportFormat = Annotated[
    FileFormat | None,
    typer.Option(
        "--format", help="How FILE is written. Default: by its ending; csv for stdin.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would change.")]
RetryFor = Annotated[
    float,
    typer.Option(
        "--retry-for",
        min=0,
        max=3600,
        metavar="SECONDS",
        help="How long to send a batch again that gets no answer, before giving up.",
    ),
]


def import_(
    file: ImportFile,
    file_format: ImportFormat = None,
    dry_run: DryRun = False,
    retry_for: RetryFor = 30.0,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Put all routes of a file. Repeating it is safe: what is there already stays as it is."""
    with told():
        found = parse(_content(file), file_format or _format_of(file))
    if found.problems:
        raise _refuse(found, form, dry_run=dry_run)
    with told(), options.connect(server, timeout, retry_s=0) as client:  # the sender's own retries say more
        outcome = _send(client, found, dry_run=dry_run, retry_s=retry_for)
    _report(found, outcome, form, dry_run=dry_run)
    _exit(outcome)


def _content(file: Path) -> bytes:
    return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()


def _format_of(file: Path) -> FileFormat:
    return FileFormat.JSONL if file.suffix.lower() in _JSONL_ENDINGS else FileFormat.CSV


def _refuse(found: RouteFile, form: Format, *, dry_run: bool) -> typer.Exit:
    """Tell what is wrong with the file; nothing of it was sent."""
    from traffic_manager.cli.batches import Batch, Outcome

    outcome = Outcome(not_done=[Batch(found.rows)] if found.rows else [], problems=list(found.problems))
    if form is Format.JSON:
        output.document(_summary(found, outcome, dry_run=dry_run))
    what = f"{_count(len(found.problems), 'problem')} in the file; nothing was sent"
    return tell(Failure(FAILED, what, "correct these lines, then repeat", _shown(found.problems)))


def _shown(problems: Sequence[LineProblem]) -> tuple[str, ...]:
    lines = tuple(str(problem) for problem in problems[:PROBLEMS_SHOWN])
    more = len(problems) - PROBLEMS_SHOWN
    return (*lines, f"and {more} more") if more > 0 else lines


def _send(client: Client, found: RouteFile, *, dry_run: bool, retry_s: float) -> Outcome:
    from traffic_manager.cli.batches import Sender, split

    with _progress(len(found.rows)) as on_batch:
        sender = Sender(client, dry_run=dry_run, retry_s=retry_s, on_batch=on_batch)
        return sender.send(list(split(found.rows)))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while the block runs, if a person looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("import", total=total)
        yield lambda rows: progress.advance(task, rows)


def _report(found: RouteFile, outcome: Outcome, form: Format, *, dry_run: bool) -> None:
    summary = _summary(found, outcome, dry_run=dry_run)
    if form is Format.JSON:
        return output.document(summary)
    names = ("lines", "created", "updated", "unchanged", "tm_revision")
    shown = {name: "-" if summary[name] is None else str(summary[name]) for name in names}
    output.fields((name.removeprefix("tm_"), text) for name, text in shown.items())
    if dry_run:
        output.note("this was a dry run: nothing was changed")
    if outcome.resent:
        output.note(f"{_count(outcome.resent, 'batch', 'batches')} sent again")
    return None


def _summary(found: RouteFile, outcome: Outcome, *, dry_run: bool) -> dict[str, object]:
    return {
        "lines": found.lines,
        "created": outcome.created,
        "updated": outcome.updated,
        "unchanged": outcome.unchanged,
        "resent_batches": outcome.resent,
        "tm_revision": str(outcome.position) if outcome.position else None,
        "dry_run": dry_run,
        "imported_lines": _ranges(outcome.done),
        "unknown_lines": _ranges(outcome.unknown),
        "not_imported_lines": _ranges(outcome.not_done),
        "problems": [asdict(problem) for problem in outcome.problems],
    }


def _ranges(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    """Return the lines of *batches*, neighbours joined: first and last of each range."""
    found: list[tuple[int, int]] = []
    for batch in batches:
        first, last = batch.lines
        found.append((first, last))
    return [(found[0][0], found[-1][1])] if found else []


_REPEAT = "repeat the command: lines that are in stay as they are"


def _exit(outcome: Outcome) -> None:
    """Exit with what went wrong, if something did, and say which lines are in."""
    if outcome.problems:
        what = "the server refused lines of the file"
        if len(outcome.problems) >= PROBLEMS_SHOWN:
            what += f"; these are the first {PROBLEMS_SHOWN}, there may be more"
        raise _stopped(
            Failure(FAILED, what, "correct these lines, then repeat", _shown(outcome.problems)), outcome
        )
    if outcome.failure is not None:
        failure = failure_of(outcome.failure)
        raise _stopped(
            failure._replace(hint="repeat the command: lines that are in stay as they are"), outcome
        )
    if outcome.was_interrupted:
        raise _stopped(Failure(INTERRUPTED, "interrupted", _REPEAT), outcome)


def _stopped(failure: Failure, outcome: Outcome) -> typer.Exit:
    told_lines = (
        ("imported", outcome.done),
        ("may be imported or not, no answer came", outcome.unknown),
        ("not imported", outcome.not_done),
    )
    ranges = tuple(
        f"{_lines(*bounds)}: {what}" for what, batches in told_lines for bounds in _ranges(batches)
    )
    return tell(failure._replace(details=(*failure.details, *ranges)))


def _lines(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"


# Export

ExportFile = Annotated[
    Path | None,
    typer.Option(
        "--file", dir_okay=False, metavar="FILE", help="Write there, whole or not at all. Default: stdout."
    ),
]
ExportOutput = Annotated[
    ExportFormat, typer.Option("--output", "-o", help="`csv`, or `json`: one route on each line.")
]


def export(
    tenant: options.Tenant = None,
    service: options.Service = None,
    env: options.Env = None,
    version: options.Version = None,
    active: options.Active = None,
    file: ExportFile = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: ExportOutput = ExportFormat.CSV,
) -> None:
    """Write all routes as they were at one revision; `routes import` reads them."""
    wanted = options.wanted(tenant, service, env, version)
    with told():
        from traffic_manager.client import read_table

        with options.connect(server, timeout) as client:
            table = read_table(client, wanted, is_active=active)
        lines = output.csv_lines(table.routes) if form is ExportFormat.CSV else _json_lines(table)
        _write(lines, file)
    output.note(f"{_count(len(table.routes), 'route')} at revision {table.position}")


def _json_lines(table: Table) -> Iterator[str]:
    position = str(table.position)
    for route in table.routes:
        yield output.json_line(asdict(route) | {"tm_revision": position}) + "\n"


def _write(lines: Iterable[str], file: Path | None) -> None:
    """Write *lines* to *file*: under another name first, so that a reader never sees half of it."""
    if file is None:
        return output.lines(lines)
    is_device = file.exists() and not file.is_file()
    unfinished = file if is_device else file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as to:
            to.writelines(lines)
        if not is_device:
            unfinished.replace(file)
    except BaseException:
        if not is_device:
            unfinished.unlink(missing_ok=True)
        raise
    return None
