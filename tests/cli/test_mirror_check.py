"""What a worker may hold, and what `verify --node` says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.db.engines import SqlEngine, sqlite_settings
from tests.routing.builders import a_key, commit, create, deactivate, delete, put
from traffic_manager.cli import mirror_check
from traffic_manager.cli.mirror_check import MirrorCheck
from traffic_manager.client import Client, MirrorState, Position, Reply, StreamEvent
from traffic_manager.db.migrate import migrate
from traffic_manager.db.verification import Verification, verify
from traffic_manager.routing.model import RouteKey

A, B = a_key("a"), a_key("b")
URL = "https://payments.example.com/v2"


@dataclass
class Worker(AbstractContextManager["Worker"]):
    """A client that reaches one worker, which holds *routes* and tells *changes* before it is done."""

    state: MirrorState
    routes: dict[RouteKey, tuple[str, int]]
    changes: list[tuple[RouteKey, str | None, int]] = field(default_factory=list)
    on_events: Callable[[], object] = lambda: None
    shown_url: str = "http://node"

    def mirror(self) -> Reply[MirrorState]:
        return Reply(self.state, 200, None, None, None)

    def events(self, _wanted: object, *, with_snapshot: bool) -> Iterator[StreamEvent]:
        assert with_snapshot
        for key, (url, revision) in self.routes.items():
            yield StreamEvent("route", None, {**key._asdict(), "url": url, "revision": revision})
        self.on_events()
        upto = self.state.revision
        for key, changed, upto in self.changes:
            told = {**key._asdict(), "url": changed, "is_active": changed is not None, "revision": upto}
            yield StreamEvent("change", None, told)
        yield StreamEvent("snapshot-end", Position(self.state.epoch[:8], upto), {})

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    """A database with two active routes and an inactive one, at revision 4."""
    migrate(sqlite_settings(tmp_path))
    found = SqlEngine(sqlite_settings(tmp_path))
    commit(found.store, create(A), create(B), create(a_key("c")), deactivate(a_key("c")))
    yield found
    found.close()


@pytest.fixture
def worker(engine: SqlEngine) -> Worker:
    """A worker that holds what it should."""
    head = engine.store.look_up([]).head
    state = MirrorState(7, 1, head.epoch, head.revision, engine.chains()[-1].hex(), True, 2)
    return Worker(state, {A: (URL, 1), B: (URL, 2)})


def findings(engine: SqlEngine, *workers: Worker) -> list[str]:
    """Return what is said of the workers, without who they are."""
    told, _ = checked(engine, *workers)
    return [finding.partition(": ")[2] for finding in told.findings]


def checked(engine: SqlEngine, *workers: Worker) -> tuple[Verification, list[str]]:
    told = verify(engine.database)
    left: list[Any] = [*workers]
    check = MirrorCheck(engine.database, told, lambda _: cast("Client", left.pop(0)))
    check.check("http://node")
    return told, check.notes


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_check, "PATIENCE_S", 0.0)


def test_nothing_is_said_of_a_worker_that_holds_what_it_should(engine: SqlEngine, worker: Worker) -> None:
    assert findings(engine, worker) == []


def test_every_route_that_differs_is_named(engine: SqlEngine, worker: Worker) -> None:
    worker.routes = {A: ("https://old.example.com", 1), a_key("c"): (URL, 3)}
    assert findings(engine, worker) == [
        f"route {A}: holds https://old.example.com (active, revision 1), the database {URL} (active, revision 1)",
        f"route {B}: holds nothing, the database {URL} (active, revision 2)",
        f"route {a_key('c')}: holds {URL} (active, revision 3), the database nothing",
    ]


def test_what_changes_meanwhile_is_no_difference(engine: SqlEngine, worker: Worker) -> None:
    new, other = a_key("new"), "https://other.example.com"
    worker.on_events = lambda: commit(engine.store, put(A, other), delete(B), create(new))
    worker.changes = [(A, other, 5), (B, None, 6), (new, URL, 7)]
    assert findings(engine, worker) == []


def test_a_change_that_a_worker_missed_is_found(engine: SqlEngine, worker: Worker) -> None:
    worker.on_events = lambda: commit(
        engine.store, put(A, "https://other.example.com"), put(B, "https://b.example.com")
    )
    worker.changes = [(B, "https://b.example.com", 6)]
    assert findings(engine, worker) == [
        f"route {A}: holds {URL} (active, revision 1), the database https://other.example.com (active, revision 5)"
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"revision": 3}, "is at revision 3, behind 4"),
        ({"revision": 9}, "is at revision 9, which the log has not"),
        ({"chain": "00"}, "has followed another history: at revision 4 its digest is 00, the log's"),
        ({"epoch": "f" * 32}, "is in epoch ffffffff, the database in"),
    ],
)
def test_a_worker_elsewhere_in_history_is_told(
    engine: SqlEngine, worker: Worker, wrong: dict[str, Any], said: str
) -> None:
    worker.state = replace(worker.state, **wrong)
    (finding,) = findings(engine, worker)
    assert finding.startswith(said)


def test_a_worker_that_holds_a_part_is_noted_and_not_compared(engine: SqlEngine, worker: Worker) -> None:
    worker.state = replace(worker.state, is_complete=False)
    told, notes = checked(engine, worker)
    assert told.findings == []
    assert notes == ["http://node worker 7: holds only a part of the routes, which cannot be compared"]


def test_each_worker_is_compared_once_however_often_it_is_met(engine: SqlEngine, worker: Worker) -> None:
    first = replace(worker, state=replace(worker.state, workers=2))
    second = replace(first, state=replace(first.state, worker=8), routes={A: (URL, 1)})
    told, notes = checked(engine, first, first, first, second)
    assert (len(told.findings), notes) == (1, [])
    assert told.findings[0].startswith(f"http://node worker 8: route {B}: holds nothing")


def test_a_worker_that_is_not_met_is_noted(
    engine: SqlEngine, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_check, "_CONNECTIONS_PER_WORKER", 1)
    alone = replace(worker, state=replace(worker.state, workers=2))
    _, notes = checked(engine, *[alone] * 4)
    assert notes == ["http://node: only 1 of its 2 workers were met; try again"]
