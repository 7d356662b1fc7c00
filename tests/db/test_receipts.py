"""Receipts are kept with what they are of or not at all, for a day, and go in small steps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.db.engines import Engine, SqlEngine
from tests.routing.builders import AUTHOR, a_key, create
from traffic_manager.db.store import SqlStore
from traffic_manager.routing.operations import Overlay
from traffic_manager.routing.ports import RECEIPTS_KEPT_US, Claim, Receipt, RouteStore, WriteTransaction


def a_claim(key: str = "key-1", principal: str = "alice", request: bytes = b"r" * 32) -> Claim:
    """Return a claim."""
    return Claim(principal, key, request)


def keep(store: RouteStore, *claims: Claim, answer: str = '{"done":1}') -> None:
    """Keep receipts without any change."""
    with store.writing([], claims) as transaction:
        transaction.keep([Receipt(claim, answer) for claim in claims])


def kept(store: RouteStore, *claims: Claim) -> Sequence[Receipt]:
    """Return the receipts of *claims*."""
    with store.writing([], claims) as transaction:
        return [transaction.receipts[c.name] for c in claims if c.name in transaction.receipts]


def _made(engine: SqlEngine, key: str, ago_us: int) -> None:
    """Have the receipt of *key* as old as that."""
    with engine.store.writing([]) as transaction:
        made_at = transaction.now - ago_us
    engine.run("update receipts set made_at = :at where idempotency_key = :name", at=made_at, name=key)


def _keep_and_fail(transaction: WriteTransaction) -> None:
    transaction.keep([Receipt(a_claim(), "{}")])
    raise ZeroDivisionError


def _names(engine: SqlEngine) -> list[str]:
    return [row[0] for row in engine.rows("select idempotency_key from receipts order by idempotency_key")]


def test_a_receipt_is_found_by_its_principal_and_key(engine: Engine) -> None:
    keep(engine.store, a_claim(), a_claim("key-2"), a_claim(principal="bob", request=b"s" * 32), answer="ü")
    assert kept(engine.store, a_claim(), a_claim("key-3"), a_claim(principal="bob")) == [
        Receipt(a_claim(), "ü"),
        Receipt(a_claim(principal="bob", request=b"s" * 32), "ü"),
    ]
    assert kept(engine.store, a_claim(principal="carol")) == []


def test_receipts_and_changes_are_written_together(engine: Engine) -> None:
    with engine.store.writing([a_key()], [a_claim()]) as transaction:
        overlay = Overlay(transaction.head, transaction.now, transaction.routes)
        overlay.apply([create()], AUTHOR, is_batch=False)
        transaction.append(overlay.changes, overlay.after)
        transaction.keep([Receipt(a_claim(), "{}")])
    assert engine.store.look_up([a_key()]).head.revision == 1
    assert kept(engine.store, a_claim()) == [Receipt(a_claim(), "{}")]


def test_a_block_that_fails_keeps_no_receipt(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.store.writing([], [a_claim()]) as transaction:
        _keep_and_fail(transaction)
    assert kept(engine.store, a_claim()) == []


def test_who_comes_later_is_asked_for_as_well(engine: Engine) -> None:
    keep(engine.store, a_claim("a"), a_claim("b"), a_claim("c"))
    with engine.store.writing([], [a_claim("a")]) as transaction:
        transaction.look_up([], [a_claim("b"), a_claim("d")])
        transaction.look_up([a_key()])
        assert set(transaction.receipts) == {("alice", "a"), ("alice", "b")}


def test_a_receipt_counts_for_a_day(sql_engine: SqlEngine) -> None:
    keep(sql_engine.store, a_claim("young"), a_claim("old"))
    _made(sql_engine, "young", RECEIPTS_KEPT_US - 60_000_000)
    _made(sql_engine, "old", RECEIPTS_KEPT_US)
    assert [r.claim.key for r in kept(sql_engine.store, a_claim("young"), a_claim("old"))] == ["young"]


def test_each_that_is_kept_lets_two_go_whose_day_is_over_the_oldest_first(sql_engine: SqlEngine) -> None:
    old = [f"old-{n}" for n in range(5)]
    keep(sql_engine.store, *(a_claim(key) for key in (*old, "young")))
    for age, key in enumerate(reversed(old)):
        _made(sql_engine, key, RECEIPTS_KEPT_US + age * 1_000_000)
    keep(sql_engine.store, a_claim("new-1"))
    assert _names(sql_engine) == ["new-1", "old-2", "old-3", "old-4", "young"]
    keep(sql_engine.store, a_claim("new-2"), a_claim("new-3"))
    assert _names(sql_engine) == ["new-1", "new-2", "new-3", "young"]


def test_a_key_whose_day_is_over_can_be_given_to_another_request(sql_engine: SqlEngine) -> None:
    keep(sql_engine.store, a_claim())
    _made(sql_engine, "key-1", RECEIPTS_KEPT_US)
    other = a_claim(request=b"s" * 32)
    keep(sql_engine.store, other, answer="other")
    assert kept(sql_engine.store, other) == [Receipt(other, "other")]


def test_another_node_sees_them(sql_engine: SqlEngine) -> None:
    keep(sql_engine.store, a_claim())
    assert kept(SqlStore(sql_engine.database), a_claim()) == [Receipt(a_claim(), '{"done":1}')]


def test_who_has_no_key_asks_and_writes_nothing_more(sql_engine: SqlEngine) -> None:
    before = sql_engine.counts.queries
    with sql_engine.store.writing([a_key()]):
        pass
    without = sql_engine.counts.queries - before
    with sql_engine.store.writing([a_key()], [a_claim()]):
        pass
    assert sql_engine.counts.queries - before - without == without + 2
