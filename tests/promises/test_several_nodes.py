"""Two nodes of two workers, with one PostgreSQL, Redis and Kafka, behave as one server. How the relay goes from node
to node is in `test_events`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx2
import pytest

from tests.monitoring.exposition import values
from tests.node import Node, path_of, wait_until
from tests.promises import history
from tests.promises.caller import RESOLVE, Answer, Caller
from tests.promises.crew import Reader, Writer, a_crew, keys, new_url
from tests.promises.ledger import Ledger
from tests.promises.oracle import violations
from tests.promises.places import a_node, soon
from tests.promises.test_events import TAKEOVER_S, leader_of
from tests.servers import KafkaServer, PostgresServer, RedisServer
from traffic_manager.routing.model import RouteKey

pytestmark = pytest.mark.servers

*KEYS, OWN_KEY = keys(9)  # nobody writes at random to the last


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory,
    database: dict[str, str],
    own_redis: RedisServer,
    own_kafka: KafkaServer,
) -> Iterator[list[Node]]:
    """Both nodes, with everything that there is."""
    folder = tmp_path_factory.mktemp("nodes")
    settings = {**database, **own_redis.env(), **own_kafka.env(), "API_WORKERS": "2"}
    settings["KAFKA_ROUTE_EVENTS_TOPIC"] = f"several-{os.getpid()}"
    with a_node(folder, settings) as first, a_node(folder, settings) as second:
        first.start("--migrate")
        yield [first, second.start()]


class Traveller:
    """Reads a key here and there by turns, each time with the token of the answer before, and now and then writes
    it: a user behind a load balancer."""

    def __init__(self, nodes: Sequence[Node], ledger: Ledger, key: RouteKey) -> None:
        self._callers = [Caller(node, ledger) for node in nodes]
        self._key = key
        self._token: str | None = None
        self._steps = 0

    def __call__(self) -> Answer | None:
        """Do one step."""
        self._steps += 1
        caller = self._callers[self._steps % len(self._callers)]
        is_write = self._steps % 5 == 0
        if is_write:
            written = caller.put(self._key, new_url())
            assert written is not None
            assert written.status in (200, 201)
            self._token = written.headers["tm-revision"]
            return written
        answer = caller.resolve(self._key, token=self._token)
        assert answer.status in (200, 404)
        self._token = answer.headers["tm-revision"]
        return answer


def test_session_that_changes_nodes_reads_its_writes_and_never_goes_back(
    nodes: list[Node], ledger: Ledger, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    with a_crew() as crew:
        for number, node in enumerate(nodes):
            crew.add(Writer(node, ledger, KEYS, seed=number), pause_s=0.005)
        for key in KEYS[:3]:
            crew.add(Traveller(nodes, ledger, key))
        wait_until(lambda: crew.check() or len(ledger.reads) >= 1000, 30.0, "enough reads")
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []


def test_many_keys_are_resolved_with_the_token_of_another_node(nodes: list[Node], ledger: Ledger) -> None:
    writer, reader = Caller(nodes[0], ledger), Caller(nodes[1])
    asked = {"keys": [key._asdict() for key in [OWN_KEY, *KEYS]]}
    for _ in range(30):
        url = new_url()
        written = writer.put(OWN_KEY, url)
        assert written is not None
        answer = reader.ask("POST", RESOLVE, asked, tm_min_revision=written.headers["tm-revision"])
        assert (answer.status, answer.json["results"][0]["url"]) == (200, url)
        assert answer.revision >= written.revision


def metrics_of(node: Node) -> dict[str, float]:
    """Return what *node* measures."""
    return values(Caller(node).ask("GET", "/metrics").body)


def wait_for_metric(node: Node, name: str, value: int) -> None:
    """Return when *node* says that metric *name* is *value*."""
    wait_until(lambda: metrics_of(node)[name] == value, 5.0, f"{name} of {value}")


def test_each_node_counts_its_own_requests_and_both_know_the_same_head(
    nodes: list[Node], ledger: Ledger
) -> None:
    before = [metrics_of(node)["resolve_requests_total"] for node in nodes]
    caller = Caller(nodes[0], ledger)
    for _ in range(50):
        caller.resolve(OWN_KEY)
    after = [metrics_of(node)["resolve_requests_total"] for node in nodes]
    assert [a - b for a, b in zip(after, before, strict=True)] == [50, 0]
    written = caller.put(OWN_KEY, new_url())
    assert written is not None
    for node in nodes:
        wait_for_metric(node, "tm_applied_revision", written.revision)
        assert metrics_of(node)["tm_head_revision"] == written.revision


def test_both_nodes_hear_of_changes_by_hints_and_poll_twice_a_second(nodes: list[Node]) -> None:
    for node in nodes:
        wait_for_metric(node, "tm_follower_hinted", 1)
        assert metrics_of(node)["tm_follower_hint_missed_total"] == 0
    name = 'tm_follower_polls_total{outcome="ok"}'
    before, began = metrics_of(nodes[0])[name], time.monotonic()
    wait_until(lambda: metrics_of(nodes[0])[name] >= before + 8, 10.0, "eight polls of two workers")
    assert time.monotonic() - began > 1.0


def test_one_relay_is_active(nodes: list[Node]) -> None:
    soon(lambda: leader_of(nodes), TAKEOVER_S, "a leader")
    for _ in range(20):
        assert sum(metrics_of(node)["tm_relay_is_leader"] for node in nodes) == 1.0


def test_killed_node_does_no_harm_to_the_other(
    nodes: list[Node], ledger: Ledger, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    victim, other = nodes
    refused = len(ledger.unanswered)
    with a_crew() as crew:
        crew.add(Writer(victim, ledger, KEYS, seed=11), pause_s=0.01)
        crew.add(Reader(victim, ledger, KEYS, seed=12))
        crew.add(Traveller([other], ledger, OWN_KEY), pause_s=0.005)
        crew.add(Reader(other, ledger, KEYS, seed=13), pause_s=0.001)
        wait_for_reads(ledger, 300)
        victim.kill()
        wait_for_reads(ledger, 300)
        victim.start()
        wait_for_reads(ledger, 300)
    assert ledger.unanswered[refused:] == []
    assert not any(read.is_flagged for read in ledger.reads)
    log = history.of_postgres(own_postgres.conninfo(database["DB_NAME"]))
    assert violations(log.changes, ledger) == []


def wait_for_reads(ledger: Ledger, count: int) -> None:
    """Return when so many more reads are answered."""
    wanted = len(ledger.reads) + count
    wait_until(lambda: len(ledger.reads) >= wanted, 30.0, f"{count} more reads")


def test_one_idempotency_key_at_both_nodes_at_once_makes_one_change_100_of_100(nodes: list[Node]) -> None:
    key = RouteKey.known("once", "payments", "prod", "v2")
    with nodes[0].client() as first, nodes[1].client() as second, ThreadPoolExecutor(2) as both:
        for number in range(100):
            together = Barrier(2)

            def send(
                client: httpx2.Client, number: int = number, together: Barrier = together
            ) -> httpx2.Response:
                together.wait(10.0)
                body = {"url": f"https://once-{number}.example.com"}
                return client.put(
                    path_of(key._asdict()), json=body, headers={"Idempotency-Key": f"once-{number}"}
                )

            here, there = both.map(send, (first, second))
            assert (here.status_code, here.content) == (there.status_code, there.content)
            assert here.headers["TM-Revision"] == there.headers["TM-Revision"]
            assert sum("Idempotency-Replayed" in answer.headers for answer in (here, there)) == 1
        told = first.get("/api/v1/changes", params={"tenant": "once", "limit": "1000"}).json()["changes"]
    assert [change["url"] for change in told] == [f"https://once-{n}.example.com" for n in range(100)]
