"""P5 and P6: a token makes any node answer with what its holder has seen; reads of one key through one worker
never go back; `no-cache` sees every write that was acknowledged before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node import Node, wait_until
from tests.promises import history
from tests.promises.caller import Answer, Caller
from tests.promises.crew import PassOn, Reader, Writer, a_crew, keys, new_url
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_node
from tests.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.servers

KEYS = keys(8)
KEY, OTHER = KEYS[0], KEYS[1]
# A node that has not asked for 50 ms may be behind: almost every round meets it.
ROUNDS = 30


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, database: dict[str, str], own_redis: RedisServer
) -> Iterator[list[Node]]:
    """Two nodes that hold the table, and two that hold nothing and have Redis."""
    folder = tmp_path_factory.mktemp("nodes")
    holding_nothing = {**database, **own_redis.env(), "MIRROR_MAX_ROUTES": "0"}
    with (
        a_node(folder, database) as first,
        a_node(folder, database) as second,
        a_node(folder, holding_nothing) as third,
        a_node(folder, holding_nothing) as fourth,
    ):
        started = [first.start("--migrate")]
        started += [node.start(wait_ready=False) for node in (second, third, fourth)]
        for node in started:
            wait_until(node.is_ready, 30.0, "readiness")
        yield started


def url_in(answer: Answer) -> str | None:
    """Return the URL of an answer, None for "no active route"."""
    return answer.json["url"] if answer.status == 200 else None


def put(caller: Caller) -> tuple[str, str]:
    """Give KEY a new URL; return it and the token."""
    url = new_url()
    answer = caller.put(KEY, url)
    assert answer is not None
    assert answer.status < 300
    return url, answer.headers["tm-revision"]


@pytest.mark.parametrize("there", [1, 2])
def test_the_token_of_a_write_shows_it_on_another_node(nodes: list[Node], ledger: Ledger, there: int) -> None:
    writer, reader = Caller(nodes[0], ledger), Caller(nodes[there], ledger)
    for _ in range(ROUNDS):
        url, token = put(writer)
        assert url_in(reader.resolve(KEY, token=token)) == url


@pytest.mark.parametrize("there", [1, 2])
def test_the_token_of_a_deletion_shows_it_on_another_node(
    nodes: list[Node], ledger: Ledger, there: int
) -> None:
    writer, reader = Caller(nodes[0], ledger), Caller(nodes[there], ledger)
    for _ in range(5):
        put(writer)
        answer = writer.delete(KEY)
        assert answer is not None
        assert url_in(reader.resolve(KEY, token=answer.headers["tm-revision"])) is None


def test_the_token_of_a_read_shows_the_same_or_later_on_another_node(
    nodes: list[Node], ledger: Ledger
) -> None:
    writer, first, second = (Caller(node, ledger) for node in nodes[:3])
    for _ in range(ROUNDS):
        url, _ = put(writer)
        seen = first.resolve(KEY, is_strong=True)
        assert url_in(seen) == url
        assert url_in(second.resolve(KEY, token=seen.headers["tm-revision"])) == url


@pytest.mark.parametrize("there", [1, 2])
def test_a_plain_read_after_a_strong_one_does_not_go_back(
    nodes: list[Node], ledger: Ledger, there: int
) -> None:
    writer, reader = Caller(nodes[0], ledger), Caller(nodes[there], ledger)
    for _ in range(ROUNDS):
        url, _ = put(writer)
        strong = url_in(reader.resolve(KEY, is_strong=True))
        assert [strong, url_in(reader.resolve(KEY)), url_in(reader.resolve(KEY))] == [url] * 3


def test_a_plain_read_after_one_with_a_token_does_not_go_back(nodes: list[Node], ledger: Ledger) -> None:
    writer, reader = Caller(nodes[0], ledger), Caller(nodes[2], ledger)
    for _ in range(ROUNDS):
        url, token = put(writer)
        assert [url_in(reader.resolve(KEY, token=token)), url_in(reader.resolve(KEY))] == [url] * 2


@pytest.mark.parametrize("there", [1, 2])
def test_a_strong_read_sees_every_write_that_was_acknowledged_before(
    nodes: list[Node], ledger: Ledger, there: int
) -> None:
    writer, reader = Caller(nodes[0], ledger), Caller(nodes[there], ledger)
    for _ in range(ROUNDS):
        url, _ = put(writer)
        assert url_in(reader.resolve(KEY, is_strong=True)) == url


def test_sessions_hold_under_load_on_nodes_of_both_kinds(
    nodes: list[Node], ledger: Ledger, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    with a_crew() as crew:
        for number, node in enumerate(nodes):
            crew.add(Reader(node, ledger, KEYS, seed=number))
            crew.add(Reader(node, ledger, KEYS, seed=number, is_strong=True))
        crew.add(Writer(nodes[0], ledger, KEYS, seed=0))
        crew.add(PassOn(nodes[1], nodes[2], ledger, KEY))
        crew.add(PassOn(nodes[2], nodes[3], ledger, OTHER))
        wait_until(lambda: crew.check() or len(ledger.reads) >= 5000, 30.0, "enough reads")
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []


def wait_for_reads(ledger: Ledger, count: int) -> None:
    """Return when so many more reads are answered."""
    wanted = len(ledger.reads) + count
    wait_until(lambda: len(ledger.reads) >= wanted, 30.0, f"{count} more reads")


def test_a_redis_that_forgets_changes_no_answer(
    nodes: list[Node],
    ledger: Ledger,
    own_postgres: PostgresServer,
    own_redis: RedisServer,
    database: dict[str, str],
) -> None:
    with a_crew() as crew:
        for number, node in enumerate(nodes[2:]):
            crew.add(Reader(node, ledger, KEYS, seed=number))
            crew.add(PassOn(node, nodes[0], ledger, KEYS[number]))
        for _ in range(3):
            wait_for_reads(ledger, 300)
            own_redis.flushall()
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []
