"""Faults that are only too much of what is allowed: F62."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from tests.faults.evidence import Evidence
from tests.faults.flood import ENDED, apart, as_fast_as_can_be, at_rate, good_per_s
from tests.faults.scenario import RECENT_CHANGES_KIB, Criterion, Scenario
from tests.faults.stand import Stand
from tests.faults.verdict import REQUESTS, Slow
from traffic_manager.monitoring.label_values import Load

_TIMES = 5
_PEAK_S = 5.0
_FLOOD_S = 20.0
_LONG_FLOOD_S = 60.0
_GOOD_SHARE = 0.8
_SENT_SHARE = 0.9
# Of lists, which go first.
_LEAST_REFUSED = 0.5
_P99_TIMES = 4.0
_ORDER = (Load.RESOLVES, Load.MISSES, Load.WRITES, Load.LISTS)
# What memory cannot answer at once.
_DEAR = (Load.MISSES, Load.WRITES, Load.LISTS)


@contextmanager
def _five_times_too_much(stand: Stand) -> Iterator[None]:
    """Keep all workers busy; then ask for five times as much as they answered."""
    peak = as_fast_as_can_be(stand, _PEAK_S)
    seconds = _LONG_FLOOD_S if stand.phases.is_full else _FLOOD_S
    rate = _TIMES * good_per_s(peak, _PEAK_S)
    flood = at_rate(stand, seconds, rate)
    stand.measured.update(peak=rate / _TIMES, good=good_per_s(flood, seconds))
    stand.measured["dear at the peak"] = good_per_s(peak, _PEAK_S, _DEAR)
    stand.measured["dear"] = good_per_s(flood, seconds, _DEAR)
    stand.measured["sent"] = sum(answers.total for answers in flood.values()) / seconds
    for kind in _ORDER:
        stand.measured[f"p99 at the peak/{kind}"] = peak[kind].p99_s
        stand.measured[f"p99/{kind}"] = flood[kind].p99_s
        stand.measured[f"refused/{kind}"] = flood[kind].refused / max(1, flood[kind].total)
        stand.measured[f"missing/{kind}"] = flood[kind].missing
    yield


def _it_was_too_much(evidence: Evidence) -> Sequence[str]:
    sent, wanted = evidence.measured["sent"], _TIMES * evidence.measured["peak"]
    lists = evidence.measured[f"refused/{Load.LISTS}"]
    found = [] if lists > _LEAST_REFUSED else [f"{lists:.0%} of all lists were refused: it was not too much"]
    if sent < _SENT_SHARE * wanted:
        found.append(f"{sent:.0f} requests a second were sent, not {wanted:.0f}")
    return found


def _as_much_is_done_as_before(evidence: Evidence) -> Sequence[str]:
    """What is too much costs a fifth at most of what can be done: of all, and of what memory cannot answer."""
    measured = evidence.measured
    pairs = (measured["good"], measured["peak"]), (measured["dear"], measured["dear at the peak"])
    return [
        f"{good:.0f} were answered a second, {peak:.0f} before"
        for good, peak in pairs
        if good < _GOOD_SHARE * peak
    ]


def _the_important_are_answered_first(evidence: Evidence) -> Sequence[str]:
    """Of each kind a larger share is refused than of the one before it; of the first two perhaps none."""
    known, missed, *others = (evidence.measured[f"refused/{kind}"] for kind in _ORDER)
    shares = [missed, *others]
    is_in_order = known <= missed and all(a < b for a, b in pairwise(shares))
    return [] if is_in_order else [f"refused in another order: {[known, *shares]}"]


def _whoever_is_refused_is_told_so(evidence: Evidence) -> Sequence[str]:
    """Whoever is not answered is refused in so many words, and told when to come again."""
    missing = sum(evidence.series("missing"))
    failed = [e for e in evidence.since_broken(*REQUESTS) if e.has_failed]
    wrong = [e for e in failed if e.status != 503 or not e.retry_after_s]
    found = [f"{missing:.0f} of the flood got no answer, or another"] if missing else []
    return [*found, f"{len(wrong)} of {len(failed)} failed otherwise: {wrong[0]}"] if wrong else found


def _accepted_are_answered_soon(evidence: Evidence) -> Sequence[str]:
    """Who is not refused waits at most four times as long as when the workers were just busy."""
    found = []
    for kind in _ORDER:
        most_s = _P99_TIMES * evidence.measured[f"p99 at the peak/{kind}"]
        took_s = evidence.measured[f"p99/{kind}"]
        if took_s > most_s:
            found.append(Slow(f"p99 of {kind}: {took_s * 1e3:.0f} ms, not {most_s * 1e3:.0f} ms"))
    return found


def _calm_within(most_s: float) -> Criterion:
    def judge(evidence: Evidence) -> Sequence[str]:
        troubled = (e.ended_ns / 1e9 for e in evidence.since_broken(*REQUESTS) if e.has_failed)
        took_s = max(troubled, default=0.0) - evidence.measured[ENDED]
        return [f"the last failure was {took_s:.1f} s after the flood"] if took_s > most_s else []

    return judge


SCENARIOS = [
    Scenario(
        "F62",
        "five times as much as two nodes can answer",
        _five_times_too_much,
        (
            _it_was_too_much,
            _as_much_is_done_as_before,
            _the_important_are_answered_first,
            _whoever_is_refused_is_told_so,
            _accepted_are_answered_soon,
            _calm_within(5.0),
        ),
        beside=apart,
        fills_kib=RECENT_CHANGES_KIB,
        is_momentary=True,
    ),
]
