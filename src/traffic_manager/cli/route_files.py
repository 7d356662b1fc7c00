"""Reads files of routes for import: CSV or JSON lines. Every line is checked before any is sent."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import StringIO
from typing import Any

from traffic_manager.errors import InvalidInput
from traffic_manager.routing.model import NAME_FIELDS, RouteKey

REQUIRED = (*NAME_FIELDS, "url")
# What export and the API add to a route. Import passes it over, so that their output can be imported.
PASSED_OVER = ("revision", "created_at", "updated_at", "tm_revision", "etag")
KNOWN = (*REQUIRED, "is_active", *PASSED_OVER)

# The API's own limit.
_URL_MAX_CHARACTERS = 2048
_CSV_CELL_MAX_CHARACTERS = 100_000
_BOOLEANS = {"true": True, "false": False}


class FileFormat(StrEnum):
    """How a file of routes is written."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """One route of a file. *is_active* None leaves the state as it is."""

    line: int
    key: RouteKey
    url: str
    is_active: bool | None


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong with a line; *field* is empty where it is the line as a whole."""

    line: int
    field: str
    code: str
    detail: str

    def __str__(self) -> str:
        return (
            f"line {self.line}: {self.field}: {self.detail}"
            if self.field
            else f"line {self.line}: {self.detail}"
        )


class BadLine(Exception):
    """A line that is no route."""

    def __init__(self, *problems: LineProblem) -> None:
        self.problems = problems


@dataclass(frozen=True, slots=True)
class RouteFile:
    """What a file holds: its routes and every problem found, in the order of the lines. *lines* counts
    those that should hold a route."""

    lines: int
    rows: tuple[Row, ...]
    problems: tuple[LineProblem, ...]


def parse(content: bytes, form: FileFormat) -> RouteFile:
    """Return what *content* holds. Problems are collected, not raised."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return RouteFile(0, (), (LineProblem(line, "", "encoding", "is not UTF-8 text"),))
    parts = list(_csv_rows(text) if form is FileFormat.CSV else _json_rows(text))
    rows = [part for part in parts if isinstance(part, Row)]
    problems = [p for part in parts if isinstance(part, BadLine) for p in part.problems]
    problems.extend(_doubles(rows))
    return RouteFile(len(parts), tuple(rows), tuple(sorted(problems, key=lambda problem: problem.line)))


def _doubles(rows: Iterable[Row]) -> Iterator[LineProblem]:
    first: dict[RouteKey, int] = {}
    for row in rows:
        earlier = first.setdefault(row.key, row.line)
        if earlier != row.line:
            yield LineProblem(row.line, "", "doubled", f"{row.key} stands in line {earlier} already")


def _row(line: int, cells: dict[str, Any]) -> Row:  # Any: JSON values
    """Return the route of *cells*. Raises BadLine that names each bad field."""
    problems = [
        LineProblem(line, field, "missing", "is missing or is no text")
        for field in REQUIRED
        if not isinstance(cells.get(field), str) or not cells[field]
    ]
    if problems:
        raise BadLine(*problems)
    if url_problem := _url_problem(cells["url"]):
        raise BadLine(LineProblem(line, "url", *url_problem))
    try:
        key = RouteKey.of(*(cells[field] for field in NAME_FIELDS))
    except InvalidInput as error:
        raise BadLine(*(LineProblem(line, p.field, p.code, p.detail) for p in error.problems)) from None
    return Row(line, key, cells["url"], _is_active(line, cells))


def _url_problem(url: str) -> tuple[str, str] | None:
    """Return code and detail of what would spoil a whole batch, so that the server could not tell the line.
    All else is for the server to judge: it knows which URLs it takes."""
    if len(url) > _URL_MAX_CHARACTERS:
        return "url-length", f"must be at most {_URL_MAX_CHARACTERS} characters long"
    if not (url.isascii() and url.isprintable()):
        return "url-characters", "must hold only the ASCII characters of RFC 3986: escape others"
    return None


def _is_active(line: int, cells: dict[str, Any]) -> bool | None:  # Any: JSON values
    value = cells.get("is_active")
    if isinstance(value, bool) or "is_active" not in cells:
        return value
    raise BadLine(LineProblem(line, "is_active", "boolean", "must be true or false"))


# CSV


def _csv_rows(text: str) -> Iterator[Row | BadLine]:
    csv.field_size_limit(_CSV_CELL_MAX_CHARACTERS)
    lines = _csv_lines(text)
    header = next(lines, (1, []))
    if isinstance(header, BadLine):
        yield header
        return
    columns = [name.strip() for name in header[1]]
    problem = _header_problem(columns)
    if problem:
        yield BadLine(LineProblem(header[0], "", "header", problem))
        return
    for found in lines:
        yield found if isinstance(found, BadLine) else _csv_row(*found, columns)


def _csv_lines(text: str) -> Iterator[tuple[int, list[str]] | BadLine]:
    """Yield the lines that are not blank, with the number of the line that each begins in."""
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadLine(LineProblem(line, "", "csv", f"is not CSV: {error}"))
            continue
        if cells:
            yield line, cells


def _header_problem(columns: list[str]) -> str | None:
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in KNOWN]
    if missing or unknown or len(set(columns)) < len(columns):
        return f"the header must be {','.join(REQUIRED)}[,is_active] (for JSON lines: --format jsonl)"
    return None


def _csv_row(line: int, cells: list[str], columns: list[str]) -> Row | BadLine:
    if len(cells) != len(columns):
        detail = f"has {len(cells)} columns, the header has {len(columns)}"
        return BadLine(LineProblem(line, "", "columns", detail))
    named: dict[str, Any] = dict(zip(columns, cells, strict=True))  # Any: as JSON values are
    # An empty cell says nothing about the state.
    if named.get("is_active") == "":
        del named["is_active"]
    elif "is_active" in named:
        named["is_active"] = _BOOLEANS.get(named["is_active"].lower(), named["is_active"])
    try:
        return _row(line, named)
    except BadLine as bad:
        return bad


# JSON lines


def _json_rows(text: str) -> Iterator[Row | BadLine]:
    # Not splitlines(): JSON text may hold U+2028 and other ends of lines that are none here.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield _json_row(line, content)


def _json_row(line: int, content: str) -> Row | BadLine:
    try:
        cells = json.loads(content, object_pairs_hook=_without_doubles)
        if not isinstance(cells, dict):
            raise ValueError("must be one JSON object on each line")
        return _row(line, _known(cells))
    except BadLine as bad:
        return bad
    except json.JSONDecodeError as error:
        return BadLine(LineProblem(line, "", "json", f"must be one JSON object on each line: {error.msg}"))
    except (ValueError, RecursionError) as error:
        return BadLine(LineProblem(line, "", "json", str(error)))


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _known(cells: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    unknown = [name for name in cells if name not in KNOWN]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}")
    return cells
