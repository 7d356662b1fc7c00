"""The table of faults is whole, and so is what the documents say of it."""

from __future__ import annotations

from tests.faults import table
from tests.servers.programs import ROOT


def test_every_row_is_a_scenario_or_is_left_out_with_a_reason() -> None:
    tried = {scenario.partition("/")[0] for scenario in table.SCENARIOS}
    assert sorted([*tried, *table.LEFT_OUT]) == sorted(table.IDS)
    assert all(table.LEFT_OUT.values())


def test_every_quick_row_is_a_scenario() -> None:
    assert set(table.QUICK) <= set(table.SCENARIOS)


def test_document_lists_every_row() -> None:
    page = (ROOT / "docs" / "reliability-faults.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| F")] == table.rows()
