"""The table of faults: every row is a scenario, or left out with the reason.

`F03/2s` is another way to break the same thing as F03. docs/reliability-faults.md lists the rows, and
docs/reliability-results.md what runs have shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import (
    of_database,
    of_host,
    of_kafka,
    of_load,
    of_overload,
    of_processes,
    of_redis,
    of_retention,
    of_sqlite,
    of_topic,
    of_versions,
)
from tests.faults.scenario import Row

_NOT_YET = "not built yet"
# Rows that are tried elsewhere, or cannot be tried.
_REASONS = {
    "F08": "two histories, of which this oracle judges one: tests/promises/test_forks.py",
    "F49": "no fault of its own: the row of the log is written with the change, and compared in every run",
}
_ROWS = (*range(1, 18), *range(20, 28), *range(30, 38), *range(40, 53), *range(60, 67))
_ROOMS = (
    *(of_database, of_sqlite, of_redis, of_kafka, of_topic, of_retention),
    *(of_processes, of_host, of_load, of_overload, of_versions),
)
IDS = tuple(f"F{number:02}" for number in _ROWS)
SCENARIOS: Mapping[str, Row] = {scenario.id: scenario for room in _ROOMS for scenario in room.SCENARIOS}
_TRIED = {scenario.partition("/")[0] for scenario in SCENARIOS}
LEFT_OUT: Mapping[str, str] = {row: _REASONS.get(row, _NOT_YET) for row in IDS if row not in _TRIED}
# What every change has to pass, in this order.
QUICK = (
    *("F01", "F02", "F07", "F15"),
    *("F20", "F21", "F23", "F24", "F25"),
    *("F31", "F34"),
    *("F40", "F44", "F45", "F46"),
    *("F60",),
)


def rows() -> list[str]:
    """Return the table as docs/reliability-faults.md has it."""
    tried = [(name, row.title, "quick" if name in QUICK else "full") for name, row in SCENARIOS.items()]
    left_out = [(name, "", f"left out: {reason}") for name, reason in LEFT_OUT.items()]
    return [f"| {name} | {title} | {tried_in} |" for name, title, tried_in in sorted([*tried, *left_out])]
