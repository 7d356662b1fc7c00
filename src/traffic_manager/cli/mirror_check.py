"""Compares what the workers of a node hold in memory with the database: `traffic-manager verify --node`.

Each worker is asked over a connection of its own: where it stands, and then for its routes, as a stream begins with
them. Both may move on meanwhile; what was changed since is taken from the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from traffic_manager.client import Client, Filter, MirrorState, StreamEvent, UnexpectedAnswer
from traffic_manager.db.pool import Database
from traffic_manager.db.store import SqlStore
from traffic_manager.db.verification import Name, State, Verification, chain_at, shown
from traffic_manager.routing.model import Change
from traffic_manager.routing.ports import NameFilter

# Which worker answers is the kernel's choice, and often the same one twice.
_CONNECTIONS_PER_WORKER = 100
# A node that follows is there within a poll.
PATIENCE_S = 5.0
_AGAIN_S = 0.1
_PAGE_CHANGES = 1000


class MirrorCheck:
    """Adds to *told* what differs in memory. *connect* makes a client of a URL, which is used for one worker."""

    def __init__(self, database: Database, told: Verification, connect: Callable[[str], Client]) -> None:
        self._store = SqlStore(database)
        self._database = database
        self._told = told
        self._connect = connect
        self.notes: list[str] = []

    def check(self, url: str) -> int:
        """Check all workers of the node at *url*; return how many were compared. Raises ClientError."""
        with ExitStack() as connections:
            found = self._workers(url, connections)
            workers = next(iter(found.values()))[1].workers
            if len(found) < workers:
                self.notes.append(f"{url}: only {len(found)} of its {workers} workers were met; try again")
            return sum([self._check_worker(f"{url} worker {pid}", *found[pid]) for pid in sorted(found)])

    def _workers(self, url: str, connections: ExitStack) -> dict[int, tuple[Client, MirrorState]]:
        """Return a connected client of each worker, as many as are met."""
        found: dict[int, tuple[Client, MirrorState]] = {}
        for tried in range(10_000):
            client = connections.enter_context(self._connect(url))
            state = client.mirror().value
            found.setdefault(state.worker, (client, state))
            if len(found) >= state.workers or tried >= _CONNECTIONS_PER_WORKER * state.workers:
                break
        return found

    def _check_worker(self, worker: str, client: Client, state: MirrorState) -> bool:
        """Return whether its routes were compared."""
        problem = self._problem(state)
        deadline = time.monotonic() + PATIENCE_S
        while problem and time.monotonic() < deadline:
            time.sleep(_AGAIN_S)
            state = client.mirror().value
            problem = self._problem(state)
        if problem:
            self._told.found(f"{worker}: {problem}")
        elif state.is_complete:
            self._compare(worker, client)
            return True
        else:
            self.notes.append(f"{worker}: holds only a part of the routes, which cannot be compared")
        return False

    def _problem(self, state: MirrorState) -> str | None:
        """Return what is wrong with the place of a worker, None if nothing is."""
        head, chain = chain_at(self._database, state.revision)
        if state.epoch != head:
            return f"is in epoch {state.epoch[:8]}, the database in {head[:8]}"
        if state.revision < self._told.head.revision:
            return f"is at revision {state.revision}, behind {self._told.head.revision}"
        if chain is None:
            return f"is at revision {state.revision}, which the log has not"
        if chain != state.chain:
            digests = f"its digest is {state.chain}, the log's {chain}"
            return f"has followed another history: at revision {state.revision} {digests}"
        return None

    def _compare(self, worker: str, client: Client) -> None:
        held = _Held(self._told.table)
        upto = held.take(client.events(Filter(), with_snapshot=True))
        if upto is None:
            raise UnexpectedAnswer(client.shown_url, "a stream that ended before all routes were told")
        expected = {change.key: _state(change) for change in self._changes(upto)}
        for name in held.suspects(expected):
            wanted = expected[name] if name in expected else _active(self._told.table.get(name))
            if held.state(name) != wanted:
                what = f"holds {shown(held.state(name))}, the database {shown(wanted)}"
                self._told.found(f"{worker}: route {'/'.join(name)}: {what}")

    def _changes(self, upto: int) -> Iterator[Change]:
        """Yield the changes after the head that the table is of."""
        after = self._told.head.revision
        while after < upto:
            page = self._store.changes(NameFilter(), after, _PAGE_CHANGES)
            yield from (change for change in page.changes if change.revision <= upto)
            after = page.changes[-1].revision if page.has_more else upto


class _Held:
    """What a worker holds, kept only where it is not as in *table*."""

    def __init__(self, table: Any) -> None:  # Any: see take
        self._table = table
        self._unseen = {name for name, state in table.items() if state.is_active}
        self._other: dict[Name, State | None] = {}

    def take(self, events: Iterator[StreamEvent]) -> int | None:
        """Take the routes, and the changes until the end of them; return the revision that this is of, None if the
        stream ends before."""
        for event in events:
            if event.kind == "route":
                self._take(event.document, is_active=True)
            elif event.kind == "change":
                self._take(event.document, is_active=event.document["is_active"])
            elif event.kind == "snapshot-end" and event.position is not None:
                return event.position.revision
        return None

    def suspects(self, expected: Any) -> list[Name]:
        """Return the routes that may differ."""
        return sorted({*self._unseen, *self._other, *expected})

    def state(self, name: Name) -> State | None:
        """Return what is held of *name*, None if nothing is."""
        if name in self._other:
            return self._other[name]
        return None if name in self._unseen else _active(self._table.get(name))

    def _take(self, document: Any, *, is_active: bool) -> None:  # Any: a JSON object
        name = (document["tenant"], document["service"], document["env"], document["version"])
        state = State(document["url"], True, document["revision"]) if is_active else None
        self._unseen.discard(name)
        if state is not None and self._table.get(name) == state:
            self._other.pop(name, None)
        else:
            self._other[name] = state


def _active(state: State | None) -> State | None:
    return state if state is not None and state.is_active else None


def _state(change: Change) -> State | None:
    return State(change.url, True, change.revision) if change.is_active else None
