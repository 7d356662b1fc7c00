"""Receipts of requests that were done, in the database: looked up, kept and dropped in the transactions of changes.

Each transaction that keeps some drops up to twice as many whose time is over. So the table stays as small as what a
day brings, no transaction has much to drop, and there is nobody who could forget to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import orjson

from traffic_manager.db.pool import Dialect, Question, Write
from traffic_manager.db.session import Row
from traffic_manager.routing.ports import RECEIPTS_KEPT_US, Claim, Receipt, RequestName

# Served by the primary key of receipts, once per name.
_LOOK_UP = """select p.principal, p.idempotency_key, p.request, p.answer from {keys_from} join receipts p
    on p.principal = k.value->>0 and p.idempotency_key = k.value->>1
    where p.made_at > (select {now}) - {kept}"""
# Served by ix_receipts_made_at: with the clock in a query of its own, which is asked once.
_OVER = """select principal, idempotency_key from receipts where made_at <= (select {now}) - {kept}
    order by made_at limit (select 2 * count(*) from {keys_from})"""

_KEEP = """insert into receipts (principal, idempotency_key, request, answer, made_at) {rows}
    on conflict (principal, idempotency_key) do update set request = excluded.request,
    answer = excluded.answer, made_at = excluded.made_at"""
_TYPES = ("text", "text", "bytea", "text", "bigint")
# Served by the primary key of receipts, once per name.
_DROP = "delete from receipts where (principal, idempotency_key) in ({rows})"
_NAME_TYPES = ("text", "text")

Ask = Callable[[Question], list[Row]]


class KeptReceipts:
    """The statements of one engine."""

    def __init__(self, dialect: Dialect) -> None:
        words = {"keys_from": dialect.keys_from, "now": dialect.now, "kept": RECEIPTS_KEPT_US}
        self._look_up = _LOOK_UP.format(**words)
        self._over = _OVER.format(**words)

    def questions(self, claims: Collection[Claim]) -> list[Question]:
        """Return what to ask for *claims*: nothing without any."""
        names = _as_json(claims)
        return [Question(self._look_up, names), Question(self._over, names)] if claims else []

    def opened(self, ask: Ask, answers: Sequence[Sequence[Row]]) -> OpenReceipts:
        """Return the receipts of a transaction that was begun with `questions`; *ask* asks it more."""
        found, over = answers or ([], [])
        return OpenReceipts(ask, self.questions, found, over)


class OpenReceipts:
    """The receipts of one transaction: `found` ones, and those whose time is over."""

    def __init__(
        self,
        ask: Ask,
        questions: Callable[[Collection[Claim]], list[Question]],
        found: Sequence[Row],
        over: Sequence[Row],
    ) -> None:
        self._ask = ask
        self._questions = questions
        self.found: Mapping[RequestName, Receipt] = _by_name(found)
        self._over: set[Row] = set(over)

    def look_up(self, claims: Collection[Claim]) -> None:
        """Ask for those of more *claims*."""
        if claims:
            found, over = (self._ask(question) for question in self._questions(claims))
            self.found = {**self.found, **_by_name(found)}
            self._over.update(over)

    def writes(self, receipts: Sequence[Receipt], now: int) -> list[Write]:
        """Return what keeps *receipts*, made at *now*, and drops those whose time is over."""
        kept = [(*r.claim.name, r.claim.request, r.answer, now) for r in receipts]
        # One statement may not write a row twice.
        dropped = sorted(self._over - {receipt.claim.name for receipt in receipts})
        writes = (Write(_KEEP, _TYPES, kept), Write(_DROP, _NAME_TYPES, dropped))
        return [write for write in writes if write.rows]


def _by_name(rows: Sequence[Row]) -> dict[RequestName, Receipt]:
    return {(who, key): Receipt(Claim(who, key, request), answer) for who, key, request, answer in rows}


def _as_json(claims: Collection[Claim]) -> str:
    return orjson.dumps([claim.name for claim in claims]).decode()
