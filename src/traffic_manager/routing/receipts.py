"""Requests that are done once, however often they come: what is kept of those that were done.

A caller names a request by an idempotency key. What it came to is kept with the change, in the same transaction, so
that there is never one without the other; and looked for under the revision lock, where nobody else can be doing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from traffic_manager.errors import IdempotencyKeyReused, SourceUnavailable
from traffic_manager.routing.model import Action, Route
from traffic_manager.routing.operations import Author, Operation, Outcome
from traffic_manager.routing.ports import Claim, Head, Receipt, RequestName

_UNREADABLE = "what this request came to cannot be read"


def claim_of(operations: Sequence[Operation], author: Author, *, is_batch: bool) -> Claim | None:
    """Return the claim of a request, None if it has no idempotency key."""
    if author.idempotency_key is None:
        return None
    return Claim(author.actor, author.idempotency_key, _digest(operations, is_batch))


def claim_to(author: Author, call: str, *asked: Any) -> Claim | None:  # Any: JSON values
    """Return the claim of a *call* on something else than routes, which asks for this."""
    if author.idempotency_key is None:
        return None
    return Claim(author.actor, author.idempotency_key, sha256(orjson.dumps([call, asked])).digest())


def receipt_among(known: Mapping[RequestName, Receipt], claim: Claim | None) -> str | None:
    """Return what the request of *claim* came to when it was done, None if it was not. Raises IdempotencyKeyReused if
    it was another request."""
    receipt = known.get(claim.name) if claim is not None else None
    if receipt is None:
        return None
    if claim is not None and receipt.claim.request != claim.request:
        raise IdempotencyKeyReused
    return receipt.answer


class Receipts:
    """The receipts of one transaction: those that are *known*, and those that it has *made*."""

    def __init__(self, known: Mapping[RequestName, Receipt]) -> None:
        self._known = dict(known)
        self.made: list[Receipt] = []

    def look_up(self, claim: Claim, operations: Sequence[Operation]) -> tuple[Head, Sequence[Outcome]] | None:
        """Return what the request came to when it was done, and the head then; None if it was not. Raises
        IdempotencyKeyReused if it was another request."""
        answer = receipt_among(self._known, claim)
        return None if answer is None else _answer_of(answer, operations)

    def keep(self, claim: Claim, head: Head, outcomes: Sequence[Outcome]) -> None:
        """Keep what a request came to."""
        receipt = self._known[claim.name] = Receipt(claim, _as_text(head, outcomes))
        self.made.append(receipt)


def head_as_text(head: Head) -> str:
    """Return what is kept of a request whose answer is in the tables but for where history stood."""
    return orjson.dumps([head.epoch, head.epoch_number, head.revision]).decode()


def head_of_text(text: str) -> Head:
    """Return where history stood when a request was done. Raises SourceUnavailable for what cannot be read."""
    try:
        return Head(*orjson.loads(text))
    except (ValueError, TypeError) as error:
        raise SourceUnavailable(_UNREADABLE) from error


def _digest(operations: Sequence[Operation], is_batch: bool) -> bytes:
    """Return what tells requests apart: by what they ask for, however it is spelled."""
    asked = [
        (o.verb, tuple(o.key), o.url, o.is_active, _sorted(o.if_match), _sorted(o.if_none_match))
        for o in operations
    ]
    return sha256(orjson.dumps([is_batch, asked])).digest()


def _sorted(tags: frozenset[str] | None) -> list[str] | None:
    return None if tags is None else sorted(tags)


def _as_text(head: Head, outcomes: Sequence[Outcome]) -> str:
    """Return what a request came to, without what the request itself says."""
    written = [(o.action, o.revision, o.route[1:] if o.route else None) for o in outcomes]
    return orjson.dumps([head.epoch, head.epoch_number, head.revision, written]).decode()


def _answer_of(text: str, operations: Sequence[Operation]) -> tuple[Head, Sequence[Outcome]]:
    try:
        *head, written = orjson.loads(text)
        outcomes = [_outcome(*both) for both in zip(operations, written, strict=True)]
        return Head(*head), outcomes
    except (ValueError, TypeError) as error:  # of a later program, or others' hands have been at it
        raise SourceUnavailable(_UNREADABLE) from error


def _outcome(operation: Operation, written: Sequence[Any]) -> Outcome:  # Any: JSON values
    action, revision, state = written
    route = None if state is None else Route(operation.key, *state)
    return Outcome(operation, route, None if action is None else Action(action), revision)
