"""The oracle finds what it is there to find, and nothing in a history that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.promises.ledger import Claim, Exchange, Kind, Ledger, Read, Write
from tests.promises.oracle import FRESH_NS, Rule, event_violations, violations, worst_staleness_s
from tests.promises.topic import Told, event_of
from traffic_manager.routing.model import Action, Change, RouteKey

KEY = RouteKey.of("team-a", "payments", "prod", "v1")
OTHER = RouteKey.of("team-a", "payments", "prod", "v2")


def a_change(revision: int, *, key: RouteKey = KEY, url: str | None = None, by: str | None = None) -> Change:
    """Return the change that `a_write` of the same revision made."""
    return Change(
        revision=revision,
        batch_end=revision,
        key=key,
        action=Action.UPDATED,
        url=url or f"https://example.com/{revision}",
        is_active=True,
        previous=None,
        actor="anonymous",
        reason=None,
        correlation_id=by or f"w{revision}",
        occurred_at=revision,
    )


def a_write(revision: int, *, at: int | None = None, status: int = 200) -> Write:
    """Return the write that made *revision*, which took from *at* to *at* + 5."""
    began = revision * 10 if at is None else at
    claim = Claim(revision, KEY, f"https://example.com/{revision}", is_active=True)
    return Write(f"w{revision}", began, began + 5, status, [claim] if status == 200 else [])


def a_read(as_of: int, *, at: int = 100) -> Read:
    """Return a right answer as of *as_of*, where every revision changed KEY."""
    url = f"https://example.com/{as_of}" if as_of else None
    return Read("node/1", at, at + 5, KEY, url, as_of)


def rules(log: Sequence[Change], *records: Write | Read) -> set[Rule]:
    """Return what is found broken."""
    ledger = Ledger(
        [record for record in records if isinstance(record, Write)],
        [record for record in records if isinstance(record, Read)],
    )
    return {violation.rule for violation in violations(log, ledger)}


LOG = [a_change(1), a_change(2), a_change(3)]
WRITES = [a_write(1), a_write(2), a_write(3)]


def test_nothing_is_found_in_a_history_that_is_right() -> None:
    assert set() == rules(LOG, *WRITES, a_read(3), a_read(3, at=200))


def test_writes_at_the_same_time_may_take_either_order() -> None:
    assert set() == rules(LOG[:2], a_write(1, at=12), a_write(2, at=10))


def test_a_write_without_an_answer_may_be_in_the_log_or_not() -> None:
    silent = a_write(3, status=0)
    assert (set(), set()) == (rules(LOG, *WRITES[:2], silent), rules(LOG[:2], *WRITES[:2], silent))


def test_an_answer_that_changed_nothing_may_name_the_change_of_another() -> None:
    claim = replace(WRITES[0].claims[0], is_change=None)
    assert set() == rules(LOG, *WRITES, Write("noop", 90, 95, 200, [claim]))


@pytest.mark.parametrize(
    ("rule", "log", "records"),
    [
        (Rule.GAP, [LOG[0], LOG[2]], [WRITES[0], WRITES[2]]),
        (Rule.GAP, [LOG[0], LOG[0]], [WRITES[0]]),
        (Rule.LOST, LOG[:2], WRITES),
        (Rule.LOST, [*LOG[:2], a_change(3, url="https://example.com/other")], WRITES),
        (Rule.LOST, [*LOG[:2], a_change(3, key=OTHER)], WRITES),
        (Rule.LOST, [*LOG[:2], a_change(3, by="w2")], WRITES),
        (Rule.INVENTED, LOG, [*WRITES[:2], a_write(3, status=409)]),
        (Rule.INVENTED, LOG, [*WRITES[:2], a_write(3, status=503)]),
        (Rule.INVENTED, LOG, WRITES[:2]),
        (Rule.DUPLICATE, LOG, [*WRITES, replace(WRITES[2], request_id="w4")]),
        (Rule.DUPLICATE, [*LOG, a_change(4, by="w3")], WRITES),
        (Rule.INVERSION, LOG, [WRITES[0], a_write(2, at=40), a_write(3, at=30)]),
        (Rule.BAD_STATUS, LOG, [*WRITES, a_write(4, status=500)]),
        (Rule.WRONG_STATE, LOG, [*WRITES, replace(a_read(3), url=None)]),
        (Rule.WRONG_STATE, LOG, [*WRITES, replace(a_read(3), as_of=2)]),
        (Rule.WRONG_STATE, LOG, [*WRITES, replace(a_read(3), key=OTHER)]),
        (Rule.WRONG_STATE, LOG, [*WRITES, replace(a_read(3), as_of=4)]),
        (Rule.TOO_OLD, LOG, [*WRITES, replace(a_read(2), is_strong=True)]),
        (Rule.TOO_OLD, LOG, [*WRITES, replace(a_read(2), at_least=3)]),
        (Rule.TOO_OLD, LOG, [*WRITES, a_read(2, at=FRESH_NS + 36)]),
        (
            Rule.TOO_OLD,
            LOG,
            [
                replace(a_read(3, at=36), is_strong=True),
                replace(a_read(2, at=50), is_strong=True),
                *WRITES[:2],
            ],
        ),
        (Rule.WENT_BACK, LOG, [*WRITES, a_read(3), a_read(2, at=110)]),
    ],
)
def test_a_seeded_violation_is_found(rule: Rule, log: list[Change], records: list[Write | Read]) -> None:
    assert rule in rules(log, *records)


def test_an_answer_may_be_a_second_old_and_any_age_if_flagged() -> None:
    old = [a_read(2, at=FRESH_NS + 35), replace(a_read(2, at=3 * FRESH_NS), is_flagged=True)]
    assert set() == rules(LOG, *WRITES, *old)


def test_reads_over_two_connections_may_differ() -> None:
    assert set() == rules(LOG, *WRITES, a_read(3), replace(a_read(2, at=110), connection="node/2"))


@pytest.mark.parametrize(
    ("rule", "ledger"),
    [
        (Rule.BAD_STATUS, Ledger(exchanges=[Exchange(Kind.KNOWN, 0, 0, 5, 500)])),
        (Rule.BAD_STATUS, Ledger(exchanges=[Exchange(Kind.LIVE, 0, 0, 5, 302)])),
        (Rule.FALSE_404, Ledger(unanswered=[(100, 404)])),
        (Rule.LEAK, Ledger(leaks=[b"somebody else's"])),
    ],
)
def test_what_no_read_or_write_shows_is_found_too(rule: Rule, ledger: Ledger) -> None:
    assert [rule] == [violation.rule for violation in violations([], ledger)]


def test_answers_that_say_not_now_break_nothing() -> None:
    ledger = Ledger(unanswered=[(100, 503)], exchanges=[Exchange(Kind.WRITE, 0, 0, 5, 503)])
    assert violations([], ledger) == []


TOLD = [event_of(change) for change in LOG]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([], TOLD),
        ([], [*TOLD, *TOLD]),
        ([], [TOLD[0], TOLD[1], TOLD[0], TOLD[2]]),
        ([Rule.EVENT_LOST], TOLD[:2]),
        ([Rule.EVENT_INVENTED], [*TOLD, event_of(a_change(4))]),
        (
            [Rule.EVENT_LOST, Rule.EVENT_INVENTED],
            [*TOLD[:2], event_of(a_change(3, url="https://example.com/4"))],
        ),
        ([Rule.EVENT_INVERSION], [TOLD[0], TOLD[2], TOLD[1]]),
    ],
    ids=["right", "twice", "one again", "lost", "invented", "changed", "late"],
)
def test_topic_is_compared_with_the_log(rules: list[Rule], told: list[Told]) -> None:
    assert [violation.rule for violation in event_violations(LOG, told)] == rules


def test_staleness_counts_from_the_first_acknowledgement_of_something_newer() -> None:
    ledger = Ledger(WRITES, [a_read(1, at=1025), a_read(3, at=9000)])
    assert worst_staleness_s(ledger) == 1000 / 1e9


def test_answers_with_a_flag_and_strong_ones_count_for_no_staleness() -> None:
    old = [replace(a_read(1, at=1025), is_flagged=True), replace(a_read(1, at=1025), is_strong=True)]
    assert worst_staleness_s(Ledger(WRITES, old)) == 0.0
