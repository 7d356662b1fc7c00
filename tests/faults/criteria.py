"""What rows of the table ask for, beyond the invariants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.evidence import Evidence, p99_s
from tests.faults.scenario import Criterion
from tests.faults.verdict import REQUESTS, Slow
from tests.promises.ledger import Exchange, Kind

# `p99<=` of the table.
P99_TIMES = 3.0
P99_FLOOR_S = 0.020
# An answer may be without a flag for so long after the database was last heard of.
UNFLAGGED_S = 1.0
# What is told to those who write when the disk is full: people have to make room.
ROOM_S = 30


def known_routes_answer(share: float = 0.999) -> Criterion:
    """Of the resolves of known routes that were due since the fault began, *share* are answered with the route."""

    def judge(evidence: Evidence) -> Sequence[str]:
        asked = evidence.since_broken(Kind.KNOWN)
        failed = [exchange for exchange in asked if exchange.has_failed]
        if len(failed) <= len(asked) * (1 - share):
            return []
        return [f"{len(failed)} of {len(asked)} resolves of known routes failed: {_statuses(failed)}"]

    return judge


def p99_holds(evidence: Evidence, from_s: float = 0.0) -> Sequence[str]:
    """Known routes resolve about as fast while it is broken, from *from_s* on, and after it, as before."""
    most_s = max(P99_TIMES * p99_s(evidence.base(Kind.KNOWN)), P99_FLOOR_S)
    broken = evidence.broken(Kind.KNOWN, after_s=from_s)
    phases = {"while broken": broken, "after": evidence.since_healed(Kind.KNOWN)}
    return [
        Slow(f"p99 of known routes {when}: {p99_s(asked) * 1e3:.1f} ms, not {most_s * 1e3:.1f} ms")
        for when, asked in phases.items()
        if p99_s(asked) > most_s
    ]


def p99_in_the_first_second(more_s: float) -> Criterion:
    """Known routes resolve at most *more_s* slower than before while nodes learn what is broken, and about as fast
    as before from then on."""

    def judge(evidence: Evidence) -> Sequence[str]:
        first = [e for e in evidence.since_broken(Kind.KNOWN) if e.due_ns < evidence.times.broken_ns + 1e9]
        most_s = p99_s(evidence.base(Kind.KNOWN)) + more_s
        took_s = p99_s(first)
        return (
            [Slow(f"p99 in the first second: {took_s * 1e3:.1f} ms, not {most_s * 1e3:.1f}")]
            if took_s > most_s
            else p99_holds(evidence, from_s=1.0)
        )

    return judge


def nothing_fails(evidence: Evidence) -> Sequence[str]:
    """Nobody's status changes."""
    failed = [exchange for exchange in evidence.since_broken(*REQUESTS) if exchange.has_failed]
    return [f"{len(failed)} requests failed: {_statuses(failed)}"] if failed else []


def reads_do_not_fail(evidence: Evidence) -> Sequence[str]:
    """No read changes its status, strong ones neither."""
    reads = (Kind.KNOWN, Kind.UNKNOWN, Kind.CHANGING, Kind.STRONG)
    failed = [exchange for exchange in evidence.since_broken(*reads) if exchange.has_failed]
    return [f"{len(failed)} reads failed: {_statuses(failed)}"] if failed else []


def nothing_is_flagged(evidence: Evidence) -> Sequence[str]:
    """Followers see the head all the time."""
    flagged = [exchange for exchange in evidence.since_broken(*REQUESTS) if exchange.is_flagged]
    return [f"{len(flagged)} answers had a flag, such as {flagged[0]}"] if flagged else []


def writes_succeed(share: float) -> Criterion:
    """Of the writes that were due while it was broken, *share* are done or refused for a reason of their own."""

    def judge(evidence: Evidence) -> Sequence[str]:
        asked = evidence.broken(Kind.WRITE)
        failed = [exchange for exchange in asked if exchange.has_failed]
        if len(failed) <= len(asked) * (1 - share):
            return []
        return [f"{len(failed)} of {len(asked)} writes failed: {_statuses(failed)}"]

    return judge


def nodes_stay_ready(evidence: Evidence) -> Sequence[str]:
    """Readiness does not follow what is broken."""
    samples = evidence.since_broken(Kind.READY)
    failed = [sample for sample in samples if sample.has_failed]
    return (
        [f"{len(failed)} of {len(samples)} probes of readiness failed: {_statuses(failed)}"] if failed else []
    )


def old_answers_are_flagged(evidence: Evidence) -> Sequence[str]:
    """Without a database every answer to a resolve says after a second that it may be stale."""
    answered = [
        exchange
        for exchange in evidence.broken(Kind.KNOWN, Kind.UNKNOWN, Kind.CHANGING, after_s=UNFLAGGED_S)
        if exchange.status in (200, 404)
    ]
    bare = [exchange for exchange in answered if not exchange.is_flagged]
    if not answered:
        return ["nothing was answered later than a second after it broke"]
    return [f"{len(bare)} of {len(answered)} old answers had no flag, such as {bare[0]}"] if bare else []


def writes_are_refused(within_s: float, *, though_reads_go_on: bool = False) -> Criterion:
    """Every write that is due while it is broken is answered 503 in time, and told when to come again.
    *though_reads_go_on*: but for those that change nothing, which the database is only read for."""
    as_ever = (200, 404, 409) if though_reads_go_on else ()

    def judge(evidence: Evidence) -> Sequence[str]:
        asked = [e for e in evidence.broken(Kind.WRITE) if e.status not in as_ever]
        wrong = [e for e in asked if e.status != 503 or not e.retry_after_s]
        found = (
            [f"{len(wrong)} of {len(asked)} writes were not refused as they should: {wrong[0]}"]
            if wrong
            else []
        )
        if p99_s(asked) > within_s:
            found.append(f"p99 of refused writes: {p99_s(asked):.2f} s, not {within_s} s")
        return found if asked else ["nobody wrote while it was broken"]

    return judge


def writes_find_no_room(evidence: Evidence) -> Sequence[str]:
    """Until the last page is full writes still succeed; then they are refused with the time for people to act."""
    refused = [e for e in evidence.broken(Kind.WRITE) if e.status == 503]
    early = [e for e in refused if e.retry_after_s != ROOM_S]
    found = [f"{len(early)} refusals ask to come again otherwise: {early[0]}"] if early else []
    return found if refused else ["no write was refused: was the disk full?"]


def writes_succeed_again(within_s: float) -> Criterion:
    """The first write is acknowledged so soon after the healing."""

    def judge(evidence: Evidence) -> Sequence[str]:
        done = [e.ended_ns for e in evidence.since_broken(Kind.WRITE) if 200 <= e.status < 300]
        later = [ended_ns for ended_ns in done if ended_ns >= evidence.times.heals_ns]
        if not later:
            return ["no write was acknowledged after the healing"]
        took_s = (min(later) - evidence.times.healed_ns) / 1e9
        return [f"the first write came {took_s:.1f} s after the healing"] if took_s > within_s else []

    return judge


def trouble_ends_within(most_s: float) -> Criterion:
    """From *most_s* after each restart, measured as `restarted/number`, until the next stop, `stopped/number`,
    nothing fails."""

    def judge(evidence: Evidence) -> Sequence[str]:
        calm_from = [at_s + most_s for at_s in evidence.series("restarted")]
        calm_to = [*evidence.series("stopped")[1:], evidence.times.ended_ns / 1e9]
        late = [
            exchange
            for start_s, end_s in zip(calm_from, calm_to, strict=True)
            for exchange in evidence.since_broken(*REQUESTS)
            if exchange.has_failed and start_s < exchange.due_ns / 1e9 and exchange.ended_ns / 1e9 < end_s
        ]
        return (
            [f"{len(late)} failed later than {most_s} s after a restart: {_statuses(late)}"] if late else []
        )

    return judge


def _statuses(exchanges: Sequence[Exchange]) -> str:
    counted = Counter((exchange.kind.name, exchange.status) for exchange in exchanges)
    listed = ", ".join(f"{number} x {kind} {status}" for (kind, status), number in counted.items())
    return f"{listed}; the first: {exchanges[0]}, {exchanges[0].took_s:.2f} s"
