"""Sends the routes of a file in batches, and knows at any moment which lines are in.

A batch is done as a whole or not at all, and once under its idempotency key: so one whose answer was lost can be sent
again, and what it did is told all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from traffic_manager.cli.route_files import LineProblem, Row
from traffic_manager.client import (
    BatchResult,
    Client,
    ClientError,
    Operation,
    Position,
    Refused,
    Reply,
    Unavailable,
    Unreachable,
    full_jitter_s,
    new_idempotency_key,
)
from traffic_manager.client.http import BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, encoded

PROBLEMS_MAX = 20
_ENVELOPE_BYTES = 64  # {"dry_run":false,"operations":[]}
_BACKOFF_CAP_S = 5.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighbouring rows of a file that are sent together."""

    rows: Sequence[Row]
    idempotency_key: str = field(default_factory=new_idempotency_key)

    @property
    def operations(self) -> list[Operation]:
        """The rows as the API takes them."""
        return [_operation(row) for row in self.rows]

    @property
    def lines(self) -> tuple[int, int]:
        """The first and the last line."""
        return self.rows[0].line, self.rows[-1].line


def _operation(row: Row) -> Operation:
    tenant, service, env, version = row.key
    operation = Operation(
        operation="put", tenant=tenant, service=service, env=env, version=version, url=row.url
    )
    if row.is_active is not None:
        operation["is_active"] = row.is_active
    return operation


def split(
    rows: Iterable[Row], rows_max: int = BATCH_OPERATIONS_MAX, bytes_max: int = BATCH_BYTES_MAX
) -> Iterator[Batch]:
    """Yield the rows in batches that the API takes: by number and by bytes."""
    batch: list[Row] = []
    size = _ENVELOPE_BYTES
    for row in rows:
        row_bytes = len(encoded(_operation(row))) + 1
        if batch and (len(batch) == rows_max or size + row_bytes > bytes_max):
            yield Batch(batch)
            batch, size = [], _ENVELOPE_BYTES
        batch.append(row)
        size += row_bytes
    if batch:
        yield Batch(batch)


@dataclass
class Outcome:
    """What became of a file: every batch is in, unknown (it was sent, no answer came) or not in, as all are
    after a dry run, which only counts."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    resent: int = 0
    position: Position | None = None
    done: list[Batch] = field(default_factory=list)
    unknown: list[Batch] = field(default_factory=list)
    not_done: list[Batch] = field(default_factory=list)
    problems: list[LineProblem] = field(default_factory=list)
    failure: ClientError | None = None
    was_interrupted: bool = False


class Sender:
    """Sends batches one after the other. One that gets no answer is sent again for *retry_s*; the first that
    fails for good ends it. *on_batch* is told how many rows each finished batch had."""

    def __init__(
        self, client: Client, *, dry_run: bool, retry_s: float, on_batch: Callable[[int], None]
    ) -> None:
        self._client = client
        self._dry_run = dry_run
        self._retry_s = retry_s
        self._on_batch = on_batch
        self._was_reached = False
        self._may_be_done = False

    def send(self, batches: Sequence[Batch]) -> Outcome:
        """Send *batches*; return what became of them. Only a bug raises."""
        outcome = Outcome()
        for index, batch in enumerate(batches):
            try:
                self._send(batch, outcome)
            except (ClientError, KeyboardInterrupt) as error:
                self._stop(error, batch, batches[index + 1 :], outcome)
                break
            (outcome.not_done if self._dry_run else outcome.done).append(batch)
            self._on_batch(len(batch.rows))
        return outcome

    def _send(self, batch: Batch, outcome: Outcome) -> None:
        self._may_be_done = False
        reply = self._until_answered(batch, outcome)
        outcome.position = reply.position or outcome.position
        for result in reply.value.results:
            if not result.changed:
                outcome.unchanged += 1
            elif result.action == "created":
                outcome.created += 1
            else:
                outcome.updated += 1

    def _until_answered(self, batch: Batch, outcome: Outcome) -> Reply[BatchResult]:
        deadline, attempt = time.monotonic() + self._retry_s, 0
        while True:
            try:
                return self._attempt(batch)
            except (Unreachable, Unavailable) as error:
                wait_s = self._wait_s(error, attempt)
                if not self._was_reached or time.monotonic() + wait_s > deadline:
                    raise
            attempt += 1
            outcome.resent += 1
            time.sleep(wait_s)

    def _attempt(self, batch: Batch) -> Reply[BatchResult]:
        try:
            reply = self._client.batch(
                batch.operations, dry_run=self._dry_run, idempotency_key=batch.idempotency_key
            )
        except Unreachable as error:
            self._may_be_done |= error.may_be_done
            self._was_reached |= error.may_be_done
            raise
        except Refused as error:
            self._may_be_done |= error.problem.may_be_done
            self._was_reached = True
            raise
        self._was_reached = True
        return reply

    def _wait_s(self, error: Unreachable | Unavailable, attempt: int) -> float:
        wait_s = full_jitter_s(attempt, cap_s=_BACKOFF_CAP_S)
        asked_s = error.problem.retry_after_s if isinstance(error, Unavailable) else None
        return max(wait_s, min(asked_s or 0.0, _BACKOFF_CAP_S))

    def _stop(self, error: BaseException, batch: Batch, rest: Sequence[Batch], outcome: Outcome) -> None:
        is_unknown = (self._may_be_done or isinstance(error, KeyboardInterrupt)) and not self._dry_run
        (outcome.unknown if is_unknown else outcome.not_done).append(batch)
        outcome.not_done.extend(rest)
        if isinstance(error, Refused) and error.problem.index is not None:
            outcome.problems.extend(self._refusals(error, batch, rest))
        elif isinstance(error, ClientError):
            outcome.failure = error
        else:
            outcome.was_interrupted = True

    def _refusals(self, first: Refused, batch: Batch, rest: Sequence[Batch]) -> list[LineProblem]:
        """Return the refused line and, so that one run tells them all, the others that would be: the rest is
        only tried, up to `PROBLEMS_MAX`."""
        row = batch.rows[first.problem.index or 0]
        found = _problems(row, first)
        left = [Batch([r for r in batch.rows if r is not row]), *rest]
        try:
            for tried in left:
                found.extend(self._tried(tried, PROBLEMS_MAX - len(found)))
        except (ClientError, KeyboardInterrupt):
            pass  # What was found so far is worth telling.
        return found

    def _tried(self, batch: Batch, problems_max: int) -> list[LineProblem]:
        rows = list(batch.rows)
        found: list[LineProblem] = []
        while rows and len(found) < problems_max:
            try:
                self._client.batch(Batch(rows).operations, dry_run=True)
                break
            except Refused as error:
                if error.problem.index is None:
                    raise
                found.extend(_problems(rows.pop(error.problem.index), error))
        return found


def _problems(row: Row, error: Refused) -> list[LineProblem]:
    errors = error.problem.errors
    if not errors:
        return [LineProblem(row.line, "", f"http-{error.problem.status}", str(error))]
    return [LineProblem(row.line, e.field, e.code, e.detail) for e in errors]
