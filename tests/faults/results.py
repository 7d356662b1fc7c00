"""Keeps what runs have shown: docs/reliability-results.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.servers.programs import ROOT

PAGE = ROOT / "docs" / "reliability-results.md"
HEAD = (
    "| fault | requests | failed | flagged | worst staleness | lost | recovered after | p99 before / while broken "
    "| promises |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def append(kind: str, seed: int, lines: Sequence[str]) -> None:
    """Add a table of *lines* to the page."""
    write([f"## {today()}, {kind}, seed {seed}", "", HEAD, *lines, ""])


def write(lines: Sequence[str]) -> None:
    """Add *lines* to the page."""
    with PAGE.open("a") as page:
        page.write("\n".join(["", *lines]))


def today() -> str:
    """Return the date of a run."""
    return f"{datetime.now(UTC):%Y-%m-%d}"
