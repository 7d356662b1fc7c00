"""A short, always equal part of what `make fuzz` does for long."""

from __future__ import annotations

import json

import pytest

from tests.fuzz import targets as fuzz_targets
from tests.fuzz.mutations import mutations
from tests.fuzz.targets import EPOCH, SILENT, targets
from traffic_manager import snapshot
from traffic_manager.routing.ports import CachedRoute

RUNS = 6_000
# Each is a file that is written and read, or a signature that is made and checked.
SLOW = {"snapshots": 600, "tokens": 2_000, "signing keys": 2_000}
NAMES = (
    "names", "urls", "json", "queries", "page tokens", "positions", "headers", "credentials", "tokens",
    "signing keys", "redis entries",
    "snapshots",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "log", SILENT)


def test_every_target_is_tried() -> None:
    assert tuple(targets()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_good_is_taken(name: str) -> None:
    """Else a target could refuse everything, and nothing behind the first check would ever be tried."""
    target = targets()[name]
    assert all(target.read(seed) for seed in target.seeds)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_damaged_is_taken_rightly_or_refused(name: str) -> None:
    target = targets()[name]
    runs = SLOW.get(name, RUNS)
    taken = sum(target.read(data) for data in mutations(target.seeds, runs, seed=1))
    assert taken < runs


def test_same_seed_damages_in_the_same_way() -> None:
    assert list(mutations([b"abc"], 100, seed=1)) == list(mutations([b"abc"], 100, seed=1))


@pytest.mark.parametrize(
    ("name", "reader", "careless"),
    [
        ("json", "parse_json", lambda data: json.loads(data.decode("utf-8", "replace"))),
        ("redis entries", "_parsed", lambda _key, _data: CachedRoute(EPOCH, 1, 2, None)),
        ("urls", "UrlPolicy", type("Careless", (), {"problem": lambda _self, _url: None})),
    ],
)
def test_careless_reader_is_found_out(
    monkeypatch: pytest.MonkeyPatch, name: str, reader: str, careless: object
) -> None:
    target = targets()[name]
    monkeypatch.setattr(fuzz_targets, reader, careless)
    with pytest.raises((AssertionError, ValueError)):
        sum(target.read(data) for data in mutations(target.seeds, RUNS, seed=1))
