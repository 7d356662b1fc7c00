"""Behind PgBouncer in transaction mode hints are lost, or come by chance, and changes are seen all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.db.engines import postgres_settings_of
from tests.node import Node, wait_until
from tests.promises import history
from tests.promises.caller import Caller
from tests.promises.crew import Reader, Writer, a_crew, keys, new_url
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_node
from tests.servers import PgBouncer, PostgresServer, Server
from tests.servers.fixtures import started
from traffic_manager.db.migrate import migrate

pytestmark = pytest.mark.servers

KEYS = keys(5)


@pytest.fixture(scope="module")
def pgbouncer(own_postgres: PostgresServer) -> Iterator[Server]:
    """A pooler before this module's PostgreSQL."""
    yield from started(PgBouncer(own_postgres))


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, database: dict[str, str], pgbouncer: PgBouncer
) -> Iterator[list[Node]]:
    """Two nodes behind the pooler."""
    migrate(postgres_settings_of(database))
    folder, pooled = tmp_path_factory.mktemp("nodes"), pgbouncer.env(database["DB_NAME"])
    with a_node(folder, pooled) as first, a_node(folder, pooled) as second:
        yield [first.start(), second.start()]


def test_changes_are_seen_by_polls_that_come_often_and_every_promise_holds(
    nodes: list[Node], own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    ledger = Ledger()
    with a_crew() as crew:
        for number, node in enumerate(nodes):
            crew.add(Writer(node, ledger, KEYS[1:], seed=number), pause_s=0.01)
            crew.add(Reader(node, ledger, KEYS, seed=number), pause_s=0.002)
        wait_until(lambda: crew.check() or len(ledger.acknowledged) >= 100, 20.0, "enough writes")
        writer, reader = Caller(nodes[0], ledger), Caller(nodes[1], ledger)
        delays_ms = sorted(delay_ms(writer, reader) for _ in range(30))
    print("another node behind the pooler shows a change after (ms):", delays_ms[15], delays_ms[-1])
    assert delays_ms[-1] < 1000
    assert delays_ms[15] < 200
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []
    assert ledger.unanswered == []


def delay_ms(writer: Caller, reader: Caller) -> float:
    """Return how long *reader* does not see what *writer* has written."""
    url = new_url()
    answer = writer.put(KEYS[0], url)
    assert answer is not None
    while (seen := reader.resolve(KEYS[0])).json.get("url") != url:
        assert seen.ended_ns - answer.ended_ns < 2e9
        time.sleep(0.002)
    return (seen.ended_ns - answer.ended_ns) / 1e6
