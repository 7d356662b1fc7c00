"""P2: all changes of all tenants have one order, that of their commits, without gap; and what every reader sees
of it, on any node, is never out of that order."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest

from tests.node import Node, wait_until
from tests.promises import history
from tests.promises.caller import Caller
from tests.promises.crew import PassOn, Reader, Writer, a_crew, keys, new_url
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_node
from tests.servers import PostgresServer

pytestmark = pytest.mark.servers

WRITES = 700
TENANTS = ("team-a", "team-b")
# Few, so that writers meet on them.
KEYS = [key for tenant in TENANTS for key in keys(6, tenant)]

Seen = list[tuple[int, str]]


class Tail(Thread):
    """Follows the changes on one node, as a consumer does; `seen` has revision and request of each."""

    def __init__(self, node: Node, until: Event) -> None:
        super().__init__(daemon=True)
        self._caller = Caller(node)
        self._until = until
        self.seen: Seen = []
        self.failure: Exception | None = None

    def run(self) -> None:
        """Read page after page until told to stop, then to the end."""
        try:
            while not self._until.is_set() or self._page(wait_s=0):
                self._page(wait_s=0.2)
        except Exception as error:
            self.failure = error

    def _page(self, wait_s: float) -> int:
        after = self.seen[-1][0] if self.seen else 0
        answer = self._caller.ask("GET", f"/api/v1/changes?after={after}&wait={wait_s}&limit=200")
        changes = answer.json["changes"]
        self.seen += [(change["revision"], change["correlation_id"]) for change in changes]
        return len(changes)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, database: dict[str, str]) -> Iterator[list[Node]]:
    """Two nodes of two workers on one database."""
    folder = tmp_path_factory.mktemp("nodes")
    settings = {**database, "API_WORKERS": "2"}
    with a_node(folder, settings) as first, a_node(folder, settings) as second:
        first.start("--migrate", wait_ready=False)
        second.start("--migrate", wait_ready=False)
        for node in (first, second):
            wait_until(node.is_ready, 30.0, "readiness")
        yield [first, second]


def test_four_processes_make_one_order_that_all_readers_see(
    nodes: list[Node], ledger: Ledger, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    done = Event()
    tails = [Tail(node, done) for node in nodes]
    here, there = nodes
    with a_crew() as crew:
        for tail in tails:
            tail.start()
        for number in range(6):
            crew.add(Writer(nodes[number % 2], ledger, KEYS, seed=number))
        for number, node in enumerate(nodes):
            crew.add(Reader(node, ledger, KEYS, seed=number))
            crew.add(Reader(node, ledger, KEYS, seed=number, is_strong=True))
        crew.add(PassOn(here, there, ledger, KEYS[0]))
        crew.add(PassOn(there, here, ledger, KEYS[1]))
        wait_until(lambda: crew.check() or len(ledger.acknowledged) >= WRITES, 60.0, f"{WRITES} writes")
    done.set()
    for tail in tails:
        tail.join()
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []
    assert log.first_broken_link() is None
    order = [(change.revision, change.correlation_id) for change in log.changes]
    assert [tail.failure for tail in tails] == [None, None]
    assert [order, order] == [tail.seen for tail in tails]


def test_a_route_is_created_by_one_of_many_who_try_at_once(nodes: list[Node], ledger: Ledger) -> None:
    rounds = 20
    earlier = len(ledger.writes)
    callers = [Caller(node, ledger) for node in nodes for _ in range(4)]
    for number in range(rounds):
        key = keys(1, f"tenant-{number}")[0]
        racers = [Thread(target=caller.create, args=(key, new_url())) for caller in callers]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
    statuses = [write.status for write in ledger.writes[earlier:]]
    assert (statuses.count(201), statuses.count(409)) == (rounds, rounds * 7)
