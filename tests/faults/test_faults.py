"""Every fault of the table, under load, on real servers: `make faults`, `make faults-full`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import table, verdict
from tests.faults.conftest import Series
from tests.faults.stand import Servers

pytestmark = pytest.mark.faults


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try the rows that were chosen."""
    rows = table.SCENARIOS if metafunc.config.getoption("--full") else table.QUICK
    metafunc.parametrize("row", rows)


# A full row of a hundred restarts takes a quarter of an hour.
@pytest.mark.timeout(1800)
def test_promises_hold_through(row: str, servers: Servers, series: Series, tmp_path: Path) -> None:
    scenario = table.SCENARIOS[row]
    evidence = scenario.run(servers, tmp_path, series.phases, series.seed)
    found = verdict.complaints(scenario, evidence)
    series.lines.append(verdict.line(scenario, evidence, found))
    print(series.lines[-1])
    assert verdict.unexcused(evidence, found) == []
