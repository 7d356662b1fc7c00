"""The soak sees what grows, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.resources import Used
from tests.faults.soak import Sample, Soak, rows_of
from tests.promises.ledger import Exchange, Kind, Ledger

_SECONDS = 600
_PROCESSES = 6


def _run(*, kib: int = 0, files: int = 0, threads: int = 0, connections: int = 0, late_ms: int = 0) -> Soak:
    """Return a run of ten minutes in which each measure grows by so much from its middle on."""
    ledger, samples = Ledger(), []
    for second in range(_SECONDS):
        at_ns, more = second * 1_000_000_000, int(second > _SECONDS / 2)
        took_ns = (5 + more * late_ms) * 1_000_000
        ledger.exchanges += [Exchange(Kind.KNOWN, 0, at_ns, at_ns + took_ns, 200)] * 10
        used = Used(600_000 + more * kib, 100 + more * files, 40 + more * threads, 20 + more * connections)
        samples.append(Sample(at_ns, used, [120_000] * _PROCESSES))
    return Soak(samples, ledger, 0, _SECONDS * 10**9, [])


def _grown(run: Soak) -> list[str]:
    return [row.what for row in rows_of(run) if not row.is_well]


def test_what_stays_as_it_is_has_not_grown() -> None:
    assert _grown(_run(kib=1000, files=2, late_ms=1)) == []


@pytest.mark.parametrize(
    ("growth", "what"),
    [
        ({"kib": 20_000}, "memory of all processes (PSS)"),
        ({"files": 10}, "open files"),
        ({"threads": 1}, "threads"),
        ({"connections": 1}, "connections of the database"),
        ({"late_ms": 10}, "p99 of a known route"),
    ],
)
def test_what_grows_is_told(growth: dict[str, int], what: str) -> None:
    assert _grown(_run(**growth)) == [what]


def test_what_outages_need_while_they_last_counts_for_nothing() -> None:
    run = _run()
    needed = Used(900_000, 500, 90, 60)
    samples = [
        replace(sample, used=needed) if 300 <= sample.at_ns / 1e9 < 450 else sample for sample in run.samples
    ]
    assert _grown(replace(run, samples=samples)) == []
