"""P1: a 2xx answer to a write means committed and flushed. Nothing that was acknowledged is missing after any
crash, nothing is there that was refused, the revisions have no gap and the chain holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import psycopg
import pytest

from tests.node import Node, wait_until
from tests.promises import history
from tests.promises.caller import Caller
from tests.promises.crew import Crew, Writer, a_crew, keys, new_url
from tests.promises.history import History
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_database, a_node
from tests.servers import PostgresServer

pytestmark = pytest.mark.servers

WRITERS = 4
KEYS = keys(12)
# Each is taken at another moment of what the writer does.
KILLS_OF_SQLITE = 3
# Every commit takes this long, so that there is a time between "decided" and "durable" to look into.
SLOW_COMMIT = """
    create function dawdle() returns trigger language plpgsql as
        'begin perform pg_sleep(1.0); return null; end';
    create constraint trigger dawdle after insert on changes deferrable initially deferred
        for each row execute function dawdle();
"""


@pytest.fixture
def database(own_postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database on a server that may be killed."""
    with a_database(own_postgres) as settings:
        yield settings


def set_to_work(crew: Crew, nodes: list[Node], ledger: Ledger) -> None:
    """Let writers contend for a few keys."""
    for number in range(WRITERS):
        crew.add(Writer(nodes[number % len(nodes)], ledger, KEYS, seed=number))


def wait_for_more(ledger: Ledger, count: int) -> None:
    """Return when *count* more writes than now are acknowledged."""
    wanted = len(ledger.acknowledged) + count
    wait_until(lambda: len(ledger.acknowledged) >= wanted, 20.0, f"{count} more writes")


def assert_nothing_is_missing(log: History, ledger: Ledger) -> None:
    """Assert every promise, and that the chain holds."""
    assert violations(log.changes, ledger) == []
    assert log.first_broken_link() is None


def test_what_sqlite_acknowledged_survives_the_killing_of_the_server(tmp_path: Path) -> None:
    ledger = Ledger()
    node = a_node(tmp_path)
    path = Path(node.environment["DB_PATH"])
    with node:
        for _ in range(KILLS_OF_SQLITE):
            node.start()
            with a_crew() as crew:
                set_to_work(crew, [node], ledger)
                wait_for_more(ledger, 40)
                node.kill()
            assert history.integrity_of(path) == "ok"
    assert_nothing_is_missing(history.of_sqlite(path), ledger)


def test_what_postgres_acknowledged_survives_the_killing_of_the_server(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    ledger = Ledger()
    with a_node(tmp_path, {**database, "API_WORKERS": "2"}) as node:
        for _ in range(2):
            node.start("--migrate")
            with a_crew() as crew:
                set_to_work(crew, [node], ledger)
                wait_for_more(ledger, 40)
                node.kill()
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert_nothing_is_missing(log, ledger)


def test_what_was_acknowledged_survives_the_killing_of_postgres(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    ledger = Ledger()
    with a_node(tmp_path, {**database, "API_WORKERS": "2"}) as node, a_crew() as crew:
        node.start("--migrate")
        set_to_work(crew, [node], ledger)
        for _ in range(2):
            wait_for_more(ledger, 40)
            own_postgres.kill()
            own_postgres.start()
        wait_for_more(ledger, 40)
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert_nothing_is_missing(log, ledger)


def test_no_answer_comes_before_the_commit_is_through(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    ledger = Ledger()
    name = database["DB_NAME"]
    with a_node(tmp_path, database) as node:
        node.start("--migrate")
        own_postgres.psql(SLOW_COMMIT, name)
        writing = Thread(target=lambda: Caller(node, ledger).create(KEYS[0], new_url()))
        writing.start()
        with psycopg.connect(own_postgres.conninfo(), autocommit=True) as observer:
            wait_until(lambda: _is_committing(observer, name), what="a commit under way")
        own_postgres.kill()
        writing.join()
    own_postgres.start()
    log = history.of_postgres(own_postgres.conninfo(name))
    assert (log.changes, ledger.acknowledged) == ([], [])
    assert violations(log.changes, ledger) == []


def _is_committing(observer: psycopg.Connection[tuple[object, ...]], database: str) -> bool:
    row = observer.execute(
        "select 1 from pg_stat_activity where datname = %s and query ilike 'commit%%' and state = 'active'",
        [database],
    )
    return row.fetchone() is not None


def test_a_write_that_postgres_lost_before_the_commit_is_told_as_not_made_or_unknown(
    tmp_path: Path, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    with a_node(tmp_path, database) as node:
        node.start("--migrate")
        own_postgres.kill()
        answer = Caller(node).create(KEYS[0], new_url())
        own_postgres.start()
        assert answer is not None
        assert (answer.status, 1 <= int(answer.headers["retry-after"]) <= 30) == (503, True)
