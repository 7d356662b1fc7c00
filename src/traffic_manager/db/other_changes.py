"""Changes of other kinds than routes, in the log: what they are about is JSON in the column `detail`. Whoever makes
them holds the revision lock, and is told what the same request came to before, if it is to be done once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import orjson

from traffic_manager.db.kept_receipts import KeptReceipts, OpenReceipts
from traffic_manager.db.pool import Database, Question, Write
from traffic_manager.db.session import Row, Session
from traffic_manager.db.store import HEAD_COLUMNS, only
from traffic_manager.routing.chain import ADDRESS_CHAIN_VERSION, DETAIL_CHAIN_VERSION, covered, link
from traffic_manager.routing.operations import Author
from traffic_manager.routing.ports import Claim, Head, Receipt
from traffic_manager.routing.receipts import receipt_among

# Served by the primary key of changes, backwards.
_LAST = f"""select {HEAD_COLUMNS}, {{now}},
    coalesce((select chain from changes order by revision desc limit 1), m.compacted_chain) from meta m"""
_CHANGE_FIELDS = (
    *("revision", "batch_end", "kind", "tenant", "service", "env", "version", "action", "url"),
    *("is_active", "previous", "actor", "reason", "correlation_id", "occurred_at"),
)
_INSERT_CHANGE = f"""insert into changes ({", ".join(_CHANGE_FIELDS)}, detail, address, chain, chain_version)
    values ({", ".join(f":{field}" for field in _CHANGE_FIELDS)}, :detail, :address, :chain, :chain_version)"""


class _Noted(NamedTuple):
    action: str
    is_active: bool
    detail: Mapping[str, object]


class OtherChanges:
    """The changes of *kind* that one transaction makes, for *author*: one batch, written when it ends well. *done*:
    what the same request came to before."""

    def __init__(
        self,
        session: Session,
        last: Row,
        kind: str,
        author: Author,
        receipts: OpenReceipts,
        claim: Claim | None,
    ) -> None:
        self.session = session
        self._receipts = receipts
        self._claim = claim
        self._made: list[Receipt] = []
        self.done = receipt_among(receipts.found, claim)
        self.head = Head(*last[:3])
        self.now: int = last[3]
        self._chain: bytes = last[4]
        self._kind = kind
        self._author = author
        self._noted: list[_Noted] = []

    @property
    def head_after(self) -> Head:
        """Where history will stand with what was noted so far."""
        return Head(self.head.epoch, self.head.epoch_number, self.head.revision + len(self._noted))

    def note(self, action: str, is_active: bool, detail: Mapping[str, object]) -> None:
        """Have a change in the log."""
        self._noted.append(_Noted(action, is_active, detail))

    def keep(self, answer: str) -> None:
        """Keep what the request came to, if it is to be done once."""
        if self._claim is not None:
            self._made.append(Receipt(self._claim, answer))

    def write(self) -> None:
        """Append all that was noted to the log, and keep what is to be kept."""
        for write in self._receipts.writes(self._made, self.now) if self._made else ():
            self._run(write)
        if not self._noted:
            return
        end = self.head_after.revision
        for revision, noted in enumerate(self._noted, self.head.revision + 1):
            columns, detail = self._columns(revision, end, noted), orjson.dumps(noted.detail).decode()
            address = self._author.address
            version = DETAIL_CHAIN_VERSION if address is None else ADDRESS_CHAIN_VERSION
            self._chain = link(self._chain, covered(list(columns.values()), detail, address, version))
            more = {"detail": detail, "address": address, "chain": self._chain, "chain_version": version}
            self.session.run(_INSERT_CHANGE, **columns, **more)
        self.session.hinted_revision = end

    def _run(self, write: Write) -> None:
        names = [f"v{number}" for number in range(len(write.types))]
        statement = write.statement.format(rows=f"values ({', '.join(f':{name}' for name in names)})")
        self.session.run_many(statement, [dict(zip(names, row, strict=True)) for row in write.rows])

    def _columns(self, revision: int, end: int, noted: _Noted) -> dict[str, object]:
        columns = dict.fromkeys(_CHANGE_FIELDS) | {"revision": revision, "batch_end": end, "kind": self._kind}
        columns |= {"action": noted.action, "is_active": noted.is_active, "occurred_at": self.now}
        author = self._author
        return columns | {
            "actor": author.actor,
            "reason": author.reason,
            "correlation_id": author.correlation_id,
        }


@contextmanager
def changing(
    database: Database, kind: str, author: Author, claim: Claim | None = None
) -> Iterator[OtherChanges]:
    """Begin a transaction under the revision lock; commits when the block ends well. Raises IdempotencyKeyReused if
    another request was done under the name of *claim*."""
    with database.writing() as session:
        database.lock_revision(session)
        # A statement of its own after the lock: one that also took the lock would read a stale head.
        last = only(session.row(_LAST.format(now=database.dialect.now)))
        changes = OtherChanges(session, last, kind, author, _receipts(database, session, claim), claim)
        yield changes
        changes.write()


def _receipts(database: Database, session: Session, claim: Claim | None) -> OpenReceipts:
    kept = KeptReceipts(database.dialect)

    def ask(question: Question) -> list[Row]:
        return session.rows(question.statement, keys=question.keys)

    questions = kept.questions([claim]) if claim is not None else []
    return kept.opened(ask, [ask(question) for question in questions])
