"""Rows become batches that the API takes."""

from __future__ import annotations

from traffic_manager.cli.batches import split
from traffic_manager.cli.route_files import Row
from traffic_manager.client.http import BATCH_BYTES_MAX, encoded
from traffic_manager.routing.model import RouteKey


def rows(number: int, url_characters: int = 20) -> list[Row]:
    url = "https://h/" + "a" * (url_characters - 10)
    return [Row(n + 2, RouteKey.of("t", "s", "e", f"v{n}"), url, is_active=True) for n in range(number)]


def test_a_batch_has_at_most_a_thousand_rows() -> None:
    assert [len(batch.rows) for batch in split(rows(2001))] == [1000, 1000, 1]


def test_batches_keep_the_order_and_know_their_lines() -> None:
    assert [batch.lines for batch in split(rows(1100))] == [(2, 1001), (1002, 1101)]


def test_no_batch_is_larger_than_the_api_takes() -> None:
    batches = list(split(rows(3000, url_characters=2048), rows_max=3000))
    sizes = [len(encoded({"dry_run": False, "operations": batch.operations})) for batch in batches]
    assert (len(batches), all(size <= BATCH_BYTES_MAX for size in sizes)) == (2, True)


def test_nothing_makes_no_batch() -> None:
    assert list(split([])) == []
