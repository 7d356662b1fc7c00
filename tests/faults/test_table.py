"""The table of faults is whole, and so is what the documents say of it."""

from __future__ import annotations

from tests.faults import table


def test_every_row_is_a_scenario_or_is_left_out_with_a_reason() -> None:
    assert sorted([*table.SCENARIOS, *table.LEFT_OUT]) == sorted(table.IDS)
    assert all(table.LEFT_OUT.values())


def test_every_quick_row_is_a_scenario() -> None:
    assert set(table.QUICK) <= set(table.SCENARIOS)
