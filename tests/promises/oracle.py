"""Says which promises the evidence breaks: the log of changes on one side, the clients' ledger on the other.

Every answer names its revision, so nothing has to be searched: sorting and bisection are enough, O(n log n).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from tests.promises.ledger import Claim, Ledger, Read, Write
from tests.promises.topic import Told, event_of, newest_only
from traffic_manager.routing.model import Change, RouteKey

# An answer without a flag is at most this far behind the database.
FRESH_NS = 1_000_000_000
WRITE_STATUSES = frozenset({0, 200, 201, 204, 404, 409, 412, 429, 503})
STATUSES = WRITE_STATUSES | {304, 400, 401, 403, 405, 406, 408, 410, 413, 414, 415, 422, 428, 429, 431, 501}


class Rule(StrEnum):
    """What can be broken."""

    GAP = "revisions are contiguous"
    LOST = "what was acknowledged is in the log"
    INVENTED = "what was refused is not in the log"
    DUPLICATE = "a revision is given once, and a request done once"
    INVERSION = "a write that began after another was acknowledged has the higher revision"
    WRONG_STATE = "an answer is the state of its key at the revision that it names"
    TOO_OLD = "an answer is as new as was promised"
    WENT_BACK = "reads of one key over one connection never go back"
    BAD_STATUS = "no answer is outside the published statuses"
    FALSE_404 = "not found is said only from knowledge"
    LEAK = "no answer holds bytes of another tenant"
    EVENT_LOST = "every change reaches Kafka"
    EVENT_INVENTED = "Kafka is told nothing but the changes"
    EVENT_INVERSION = "of each route, what consumers keep is in the order of its revisions"


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    rule: Rule
    detail: str


def violations(log: Sequence[Change], ledger: Ledger) -> list[Violation]:
    """Return every promise that *ledger* and *log*, both whole, show as broken."""
    return [
        *_gaps(log),
        *_bad_statuses(ledger),
        *_false_404s(ledger),
        *(Violation(Rule.LEAK, repr(answer)) for answer in ledger.leaks),
        *_writes(log, ledger.writes),
        *_inversions(ledger.writes, log),
        *_wrong_states(log, ledger.reads),
        *_too_old(log, ledger),
        *_went_back(log, ledger.reads),
    ]


def event_violations(log: Sequence[Change], told: Sequence[Told]) -> list[Violation]:
    """Return every promise about events that *told*, each key's events in their order, shows as broken. *log* ends
    where the relay's checkpoint is."""
    wanted = {event_of(change) for change in log}
    kept = set(newest_only(told))
    return [
        *(Violation(Rule.EVENT_LOST, str(event)) for event in wanted - set(told)),
        *(Violation(Rule.EVENT_INVENTED, str(event)) for event in set(told) - wanted),
        # It came, but after a later one: consumers have dropped it.
        *(Violation(Rule.EVENT_INVERSION, str(event)) for event in (wanted & set(told)) - kept),
    ]


def worst_staleness_s(ledger: Ledger) -> float:
    """Return for how long, at most, something newer had been acknowledged when an answer without a flag that showed
    something older was asked for; plain reads alone."""
    claimed = sorted(
        (claim.revision, write.ended_ns)
        for write in ledger.writes
        if write.is_acknowledged
        for claim in write.claims
    )
    revisions = [revision for revision, _ in claimed]
    # From each revision on, the first acknowledgement of it or of a later one.
    earliest_ns = list(accumulate((ended_ns for _, ended_ns in reversed(claimed)), min))[::-1]
    worst_ns = 0
    for read in ledger.reads:
        index = bisect_right(revisions, read.as_of)
        if index < len(revisions) and not read.is_flagged and not read.is_strong:
            worst_ns = max(worst_ns, read.began_ns - earliest_ns[index])
    return worst_ns / 1e9


def _gaps(log: Sequence[Change]) -> Iterator[Violation]:
    for expected, change in enumerate(log, 1):
        if change.revision != expected:
            yield Violation(Rule.GAP, f"{change.revision} stands where {expected} belongs")
            return


def _bad_statuses(ledger: Ledger) -> Iterator[Violation]:
    for write in ledger.writes:
        if write.status not in WRITE_STATUSES:
            yield Violation(Rule.BAD_STATUS, f"{write.request_id} was answered with {write.status}")
    for exchange in ledger.exchanges:
        if exchange.status not in STATUSES:
            yield Violation(Rule.BAD_STATUS, f"{exchange.kind} was answered with {exchange.status}")


def _false_404s(ledger: Ledger) -> Iterator[Violation]:
    """A 404 that names its revision is judged as every other answer: see `_wrong_states`."""
    for began_ns, status in ledger.unanswered:
        if status == 404:
            yield Violation(Rule.FALSE_404, f"a resolve at {began_ns} was answered 404, as of no revision")


def _writes(log: Sequence[Change], writes: Sequence[Write]) -> Iterator[Violation]:
    by_revision = {change.revision: change for change in log}
    by_request: dict[str, list[Change]] = defaultdict(list)
    for change in log:
        by_request[change.correlation_id].append(change)
    claimed: dict[int, str] = {}
    for write in writes:
        for claim in write.claims:
            yield from _claim(write, claim, by_revision.get(claim.revision), claimed)
        made = by_request.pop(write.request_id, [])
        if write.is_refused and made:
            yield Violation(
                Rule.INVENTED, f"{write.request_id} was refused ({write.status}) and is {made[0]}"
            )
        if write.is_acknowledged and len(made) > len(write.claims):
            yield Violation(Rule.DUPLICATE, f"{write.request_id} made {len(made)} changes")
    for request_id, changes in by_request.items():
        yield Violation(Rule.INVENTED, f"nobody asked for {changes[0]} ({request_id})")


def _claim(write: Write, claim: Claim, found: Change | None, claimed: dict[int, str]) -> Iterator[Violation]:
    state = (claim.key, claim.url, claim.is_active)
    if found is None or (found.key, found.url, found.is_active) != state:
        yield Violation(Rule.LOST, f"{write.request_id}: {claim}; the log has {found}")
    elif claim.is_change and found.correlation_id != write.request_id:
        yield Violation(Rule.LOST, f"{write.request_id}: {claim} was made by {found.correlation_id}")
    if claim.is_change and claimed.setdefault(claim.revision, write.request_id) != write.request_id:
        other = claimed[claim.revision]
        yield Violation(Rule.DUPLICATE, f"{claim.revision} was given to {other} and {write.request_id}")


def _inversions(writes: Sequence[Write], log: Sequence[Change]) -> Iterator[Violation]:
    """Compare with the highest revision acknowledged before each write began."""
    maker = {change.revision: change.correlation_id for change in log}
    made: list[tuple[Write, list[int]]] = []
    for write in writes:
        own = [c.revision for c in write.claims if c.is_change or maker.get(c.revision) == write.request_id]
        if own and write.is_acknowledged:
            made.append((write, own))
    acknowledged = _HighestBy((write.ended_ns, max(own)) for write, own in made)
    for write, own in made:
        before = acknowledged.before(write.began_ns)
        if before >= min(own):
            yield Violation(Rule.INVERSION, f"{write.request_id} made {min(own)} after {before} was there")


def _wrong_states(log: Sequence[Change], reads: Sequence[Read]) -> Iterator[Violation]:
    states = _States(log)
    for read in reads:
        if read.as_of > len(log):
            yield Violation(Rule.WRONG_STATE, f"{read} is of the future: the log ends at {len(log)}")
        elif (expected := states.url_of(read.key, read.as_of)) != read.url:
            yield Violation(Rule.WRONG_STATE, f"{read} should say {expected}")


def _too_old(log: Sequence[Change], ledger: Ledger) -> Iterator[Violation]:
    acknowledged = _HighestBy(
        (write.ended_ns, claim.revision)
        for write in ledger.writes
        if write.is_acknowledged
        for claim in write.claims
    )
    strong = _HighestBy((read.ended_ns, read.as_of) for read in ledger.reads if read.is_strong)
    for read in ledger.reads:
        wanted = read.at_least
        if read.is_strong:
            wanted = max(wanted, acknowledged.before(read.began_ns), strong.before(read.began_ns))
        elif not read.is_flagged:
            wanted = max(wanted, acknowledged.before(read.began_ns - FRESH_NS))
        if read.as_of < wanted:
            yield Violation(Rule.TOO_OLD, f"{read} should be of {wanted} or later")


def _went_back(log: Sequence[Change], reads: Sequence[Read]) -> Iterator[Violation]:
    states = _States(log)
    seen: dict[tuple[str, RouteKey], int] = {}
    for read in sorted(reads, key=lambda read: read.began_ns):
        place = (read.connection, read.key)
        effective = states.revision_of(read.key, read.as_of)
        if effective < seen.get(place, 0):
            yield Violation(Rule.WENT_BACK, f"{read} shows {effective} after {seen[place]}")
        seen[place] = max(seen.get(place, 0), effective)


class _States:
    """Every key's past."""

    def __init__(self, log: Sequence[Change]) -> None:
        self._revisions: dict[RouteKey, list[int]] = defaultdict(list)
        self._urls: dict[RouteKey, list[str | None]] = defaultdict(list)
        for change in log:
            self._revisions[change.key].append(change.revision)
            self._urls[change.key].append(change.url if change.is_active else None)

    def url_of(self, key: RouteKey, as_of: int) -> str | None:
        """Return what served *key* at *as_of*, None if nothing did."""
        index = bisect_right(self._revisions[key], as_of)
        return self._urls[key][index - 1] if index else None

    def revision_of(self, key: RouteKey, as_of: int) -> int:
        """Return the revision of the change that *as_of* shows of *key*, 0 for none."""
        index = bisect_right(self._revisions[key], as_of)
        return self._revisions[key][index - 1] if index else 0


class _HighestBy:
    """The highest revision that was known at a time."""

    def __init__(self, seen: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(seen)
        self._times = [time_ns for time_ns, _ in ordered]
        self._highest = list(accumulate((revision for _, revision in ordered), max))

    def before(self, time_ns: int) -> int:
        """Return the highest revision seen before *time_ns*, 0 if none was."""
        index = bisect_left(self._times, time_ns)
        return self._highest[index - 1] if index else 0
