"""`docs/metrics.md` and the server name the same metrics."""

from __future__ import annotations

from pathlib import Path

from traffic_manager.monitoring.metrics import Metrics

from .exposition import labels, types

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def _rows() -> dict[str, list[str]]:
    """Return the cells of each row of the table by the metric's name."""
    rows = [line.strip("| ").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row] for row in rows}


def test_every_metric_has_its_row_and_every_row_its_metric() -> None:
    assert sorted(_rows()) == sorted(types(Metrics().render()))


def test_no_metric_has_two_rows() -> None:
    assert sum(line.startswith("| `") for line in PAGE.read_text().splitlines()) == len(_rows())


def test_types_are_the_documented_ones() -> None:
    assert {name: row[1] for name, row in _rows().items()} == types(Metrics().render())


def test_labels_are_the_documented_ones() -> None:
    documented = {
        name: frozenset(label.strip(" `") for label in row[2].split(",") if label)
        for name, row in _rows().items()
    }
    assert documented == labels(Metrics().render())


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    assert [name for name, row in _rows().items() if len(row) != 5 or not all(row[3:])] == []
