"""Judges a run: by the invariants that hold whatever breaks, and by what the row itself asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.faults.evidence import Evidence, p99_s
from tests.faults.scenario import Row
from tests.promises.ledger import Kind
from tests.promises.oracle import Rule, event_violations, violations, worst_staleness_s

_MOST_SHOWN = 5
_LIVE_SHARE = 0.999
REQUESTS = (Kind.KNOWN, Kind.UNKNOWN, Kind.CHANGING, Kind.STRONG, Kind.TOKEN, Kind.WRITE)


class Slow(str):
    """What is wrong with how long answers took: excused where others used the machine too."""


def complaints(scenario: Row, evidence: Evidence) -> list[str]:
    """Return all that is wrong, also what is excused."""
    found = [*_invariants(evidence), *evidence.findings]
    if not scenario.kills_our_own:
        found += [*_life(evidence), *(f"held after the recovery: {what}" for what in evidence.excess)]
    return found + [wrong for criterion in scenario.criteria for wrong in criterion(evidence)]


def unexcused(evidence: Evidence, found: Sequence[str]) -> list[str]:
    """Return what of *found* counts, nothing if the run has passed."""
    return [wrong for wrong in found if evidence.tells_of_latency or not isinstance(wrong, Slow)]


def line(scenario: Row, evidence: Evidence, found: Sequence[str]) -> str:
    """Return the run, in which *found* was wrong, as one row of the table of results."""
    requests = [e for e in evidence.ledger.exchanges if e.kind in REQUESTS]
    asked = len(requests) or len(evidence.ledger.writes)  # of clients that do not keep to a rate
    lost = [v for v in violations(evidence.log.changes, evidence.ledger) if v.rule is Rule.LOST]
    cells = (
        f"{scenario.id} {scenario.title}",
        f"{asked:,}",
        f"{sum(e.has_failed for e in requests):,}",
        f"{sum(e.is_flagged for e in requests):,}",
        f"{worst_staleness_s(evidence.ledger):.2f} s",
        f"{len(lost)}",
        f"{evidence.recovered_after_s:.1f} s",
        f"{p99_s(evidence.base(Kind.KNOWN)) * 1e3:.1f} / {p99_s(evidence.broken(Kind.KNOWN)) * 1e3:.1f} ms",
        _said(evidence, found),
    )
    return f"| {' | '.join(cells)} |"


def _said(evidence: Evidence, found: Sequence[str]) -> str:
    if wrong := unexcused(evidence, found):
        return f"**{len(wrong)} broken**"
    return "held; slower, but the machine was busy" if found else "held"


def _invariants(evidence: Evidence) -> Iterator[str]:
    found = violations(evidence.log.changes, evidence.ledger)
    head, published = len(evidence.log.changes), evidence.published_revision
    if published is not None:
        found += event_violations(evidence.log.changes[:published], evidence.told)
    for rule in Rule:
        broken = [violation.detail for violation in found if violation.rule is rule]
        if broken:
            yield f"not true: {rule}; {len(broken)} times: {'; '.join(broken[:_MOST_SHOWN])}"
    if published is not None and published < head:
        yield f"published {published} of {head} changes"
    if revision := evidence.log.first_broken_link():
        yield f"the chain is broken at {revision}"
    if failed := [e for e in evidence.base(*REQUESTS) if e.has_failed]:
        yield f"{len(failed)} failed before anything broke: {failed[0]}"


def _life(evidence: Evidence) -> Iterator[str]:
    samples = [e for e in evidence.ledger.exchanges if e.kind is Kind.LIVE]
    alive = sum(sample.status == 200 for sample in samples)
    if alive < len(samples) * _LIVE_SHARE:
        yield f"/health/live was 200 in {alive} of {len(samples)} samples"
