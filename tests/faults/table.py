"""The table of faults: every row is a scenario, or left out with the reason.

The rows are those of the reliability plan; docs/reliability-results.md shows what their runs have shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import of_database, of_redis
from tests.faults.scenario import Scenario

_NOT_YET = "not built yet"
_ROWS = (*range(1, 18), *range(20, 28), *range(30, 38), *range(40, 53), *range(60, 67))
IDS = tuple(f"F{number:02}" for number in _ROWS)
SCENARIOS: Mapping[str, Scenario] = {
    scenario.id: scenario for room in (of_database, of_redis) for scenario in room.SCENARIOS
}
LEFT_OUT: Mapping[str, str] = {row: _NOT_YET for row in IDS if row not in SCENARIOS}
# What every change has to pass, in this order.
QUICK = ("F01", "F20")
