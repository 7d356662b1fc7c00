"""A connection is cut between a commit and its answer, again and again: each request is done once all the same."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.db.engines import postgres_settings_of
from tests.faults.proxy import Proxy, Trouble
from tests.node import Node, path_of
from tests.promises import history
from tests.promises.caller import Answer, Caller
from tests.promises.crew import keys
from tests.promises.places import a_node
from tests.servers import PostgresServer
from traffic_manager.client import Client
from traffic_manager.db.migrate import migrate
from traffic_manager.routing.model import RouteKey

pytestmark = pytest.mark.servers

REQUESTS = 100
PATIENCE_S = 30.0
AFTER_COMMITS = Trouble(cut_after=b"\0commit\0")


@pytest.fixture(scope="module")
def proxy(own_postgres: PostgresServer) -> Iterator[Proxy]:
    """What cuts the connections between the nodes and PostgreSQL."""
    with closing(Proxy(own_postgres.port)) as between:
        yield between


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, database: dict[str, str], proxy: Proxy
) -> Iterator[list[Node]]:
    """Two nodes behind the proxy."""
    migrate(postgres_settings_of(database))
    folder = tmp_path_factory.mktemp("nodes")
    # Unprepared, so that the proxy can see a commit.
    settings = {**database, "DB_PORT": str(proxy.port), "DB_PREPARE": "false"}
    with a_node(folder, settings) as first, a_node(folder, settings) as second:
        yield [first.start(), second.start()]


def _put(caller: Caller, key: RouteKey, number: int) -> Answer:
    body = {"url": f"https://h{number}.example.com/"}
    return caller.ask("PUT", path_of(key._asdict()), body, idempotency_key=f"request-{number}")


def _put_until_answered(callers: list[Caller], key: RouteKey, number: int) -> list[Answer]:
    """Send a request to one node after the other until it is a success; return all answers."""
    answers: list[Answer] = []
    give_up_at = time.monotonic() + PATIENCE_S
    while not answers or answers[-1].status >= 300:
        assert time.monotonic() < give_up_at, [answer.body for answer in answers[-3:]]
        answers.append(_put(callers[len(answers) % 2], key, number))
    return answers


def test_of_a_hundred_commits_whose_answer_is_lost_each_is_made_once_and_told_in_the_end(
    nodes: list[Node], proxy: Proxy, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    callers, wanted = [Caller(node) for node in nodes], keys(REQUESTS)
    proxy.set(AFTER_COMMITS)
    told = [_put_until_answered(callers, key, number) for number, key in enumerate(wanted)]
    proxy.set(Trouble())
    whole = history.of_postgres(own_postgres.conninfo(database["DB_NAME"])).changes
    log = [change for change in whole if change.key in wanted]
    assert Counter(change.key for change in log) == Counter(wanted)
    assert [answers[-1].headers.get("idempotency-replayed") for answers in told] == ["?1"] * REQUESTS
    revisions = {change.key: change.revision for change in log}
    assert [answers[-1].revision for answers in told] == [revisions[key] for key in wanted]


def test_the_client_sends_it_again_by_itself_and_is_told(nodes: list[Node], proxy: Proxy) -> None:
    key = ("team-a", "of-the-client", "prod", "v1")
    with Client(nodes[0].url, retry_s=PATIENCE_S) as client:
        proxy.set(AFTER_COMMITS)
        reply = client.put(key, "https://client.example.com/")
        proxy.set(Trouble())
        assert (reply.status, reply.value.url) == (201, "https://client.example.com/")
        assert len(client.history(key).value.changes) == 1
