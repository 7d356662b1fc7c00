"""What goes to stdout (the result and nothing else) and to stderr (everything that is said about it)."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from io import StringIO
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table

    from traffic_manager.client import Change, Reply, Route

READER_GONE = 141  # as shells count the end of a program whose reader went away

CSV_COLUMNS = ("tenant", "service", "env", "version", "url", "is_active")

# Where stdout is a file or a pipe, a table's rows are never folded: a line stays a line for grep.
_UNFOLDED_COLUMNS = 10_000


class Format(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"


class ListFormat(StrEnum):
    """How a list of routes is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class ExportFormat(StrEnum):
    """How exported routes are written."""

    CSV = "csv"
    JSON = "json"


_BARS = " ▁▂▃▄▅▆▇█"

# To stderr


def error(what: str) -> None:
    """Say what went wrong."""
    _say("error: ", what, typer.colors.RED)


def hint(what_to_do: str) -> None:
    """Say what to do about it."""
    _say("hint: ", what_to_do, typer.colors.YELLOW)


def note(text: str) -> None:
    """Say something about the result."""
    _say("", text, None)


def _say(label: str, text: str, colour: str | None) -> None:
    styled = typer.style(label, fg=colour, bold=True) if colour else label
    typer.echo(styled + printable(text), err=True, color=False if "NO_COLOR" in os.environ else None)


def printable(text: str) -> str:
    """Return *text* without characters that could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# To stdout


def _write(text: str) -> None:
    """Write at once, for a reader who follows. If nobody reads any more (`... | head`), end quietly."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would flush once more when it exits, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(READER_GONE) from None


def line(text: str) -> None:
    """Write one line."""
    _write(f"{text}\n")


def document(value: object) -> None:
    """Write one JSON document."""
    line(json.dumps(value, indent=2))


def json_line(value: object) -> str:
    """Return *value* as JSON on one line."""
    return json.dumps(value, separators=(",", ":"))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table that fits the terminal; long cells are folded, none is cut. If it is too wide, a last
    column `url` goes under the route, so that both stay whole for as long as possible. Columns whose name
    ends with `#` hold numbers."""
    console, found = _stdout(), list(rows)
    shown = as_table(columns, found)
    unbounded = console.options.update(width=_UNFOLDED_COLUMNS)
    if (
        tuple(columns[-2:]) == ("route", "url")
        and console.measure(shown, options=unbounded).maximum > console.width
    ):
        stacked = [(*row[:-2], row[-2] + (f"\n  {row[-1]}" if row[-1] else "")) for row in found]
        shown = as_table(columns[:-1], stacked)
    with console.capture() as rendered:
        console.print(shown)
    _write(rendered.get())


def as_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return the table that `table` writes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    for name in columns:
        is_short = name.endswith("#") or name in _SHORT
        justify: JustifyMethod = "right" if name.endswith("#") else "left"
        shown.add_column(name.rstrip("#"), justify=justify, no_wrap=is_short, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_lines(cell), style=_STYLES.get(cell, "")) for cell in row))
    return shown


def _lines(cell: str) -> str:
    return "\n".join(printable(part) for part in cell.split("\n"))


_SHORT = ("when", "action", "state", "status", "check")
_STYLES = {
    "active": "green",
    "inactive": "dim",
    "created": "green",
    "activated": "green",
    "deactivated": "yellow",
    "deleted": "red",
    "healthy": "green",
    "ready": "green",
    "degraded": "yellow",
    "disabled": "dim",
    "unhealthy": "red",
}


def _stdout() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _UNFOLDED_COLUMNS
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def chart(values: Sequence[float]) -> str:
    """Return a bar for each value, one character wide; the greatest is a whole line high."""
    most = max(values, default=0.0) or 1.0
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in values)


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Write one thing's fields, a line each."""
    found = [(name, printable(value)) for name, value in pairs]
    width = max(len(name) for name, _ in found)
    line("\n".join(f"{name:<{width}}  {value}" for name, value in found))


# Routes and changes


def state(is_active: bool) -> str:
    """Return the word for it."""
    return "active" if is_active else "inactive"


def when(rfc3339: str) -> str:
    """Return the time, in UTC and to the second, as people read it."""
    return f"{rfc3339[:19].replace('T', ' ')}Z"


def route(reply: Reply[Route], form: Format) -> None:
    """Write one route with the etag that `--if-match` takes."""
    found = reply.value
    if form is Format.JSON:
        return document(asdict(found) | {"etag": reply.etag})
    return fields(
        (
            ("route", "/".join(found.key)),
            ("url", found.url),
            ("state", state(found.is_active)),
            ("revision", str(found.revision)),
            ("etag", reply.etag or "-"),
            ("created", when(found.created_at)),
            ("updated", when(found.updated_at)),
        )
    )


def route_table(routes: Iterable[Route]) -> None:
    """Write routes for people. The column `route` is what other commands take."""
    rows = ((str(r.revision), state(r.is_active), "/".join(r.key), r.url) for r in routes)
    table(("revision#", "state", "route", "url"), rows)


def change_table(changes: Iterable[Change]) -> None:
    """Write changes for people."""
    rows = ((str(c.revision), when(c.occurred_at), c.action, "/".join(c.key), c.url or "") for c in changes)
    table(("revision#", "when", "action", "route", "url"), rows)


def history_table(changes: Iterable[Change]) -> None:
    """Write the changes of one route for people."""
    rows = (
        (
            str(c.revision),
            when(c.occurred_at),
            c.action,
            c.actor or "",
            c.address or "",
            c.reason or "",
            c.url or "",
        )
        for c in changes
    )
    table(("revision#", "when", "action", "actor", "address", "reason", "url"), rows)


def csv_lines(routes: Iterable[Route]) -> Iterator[str]:
    """Yield routes as the lines that `routes import` reads, the header first."""
    yield _csv_line(CSV_COLUMNS)
    for found in routes:
        yield _csv_line((*found.key, found.url, "true" if found.is_active else "false"))


def _csv_line(cells: Sequence[str]) -> str:
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def lines(finished: Iterable[str]) -> None:
    """Write lines that carry their own ends."""
    for part in finished:
        _write(part)
