"""Where a fault is tried: real servers, and two nodes of two workers on a database and a topic of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.faults.load import Load
from tests.node import Node
from tests.promises.caller import Caller
from tests.promises.crew import new_url
from tests.promises.ledger import Ledger
from tests.promises.places import a_node
from tests.promises.topic import Topic
from tests.servers import KafkaServer, PostgresServer, RedisServer
from traffic_manager.routing.model import RouteKey

NODES = 2
_KNOWN = 2000
_CHANGING = 50
_BATCH = 1000
# In every URL of a tenant that nobody asks for.
CANARY = "canary-of-another-tenant"
_numbers = count(1)
_SETTINGS = {"API_WORKERS": "2", "DB_POOL_MAX": "6"}


@dataclass(frozen=True)
class Servers:
    """The servers of all faults, tried one after another; each leaves them running."""

    postgres: PostgresServer
    redis: RedisServer
    kafka: KafkaServer


@dataclass(frozen=True)
class Stand:
    """The place of one run. `ledger` holds what was written before the load began, `findings` what the fault itself
    finds wrong."""

    servers: Servers
    database: Mapping[str, str]
    topic: Topic
    nodes: Sequence[Node]
    ledger: Ledger
    folder: Path
    findings: list[str] = field(default_factory=list)

    @property
    def conninfo(self) -> str:
        """The database, as psycopg takes it."""
        return self.servers.postgres.conninfo(self.database["DB_NAME"])

    def ask_database(self, statement: str) -> str:
        """Return what psql prints for *statement*."""
        return self.servers.postgres.psql(statement, self.database["DB_NAME"])

    def load(self, seed: int) -> Load:
        """Return L0 on these nodes."""
        return Load([node.port for node in self.nodes], KNOWN, CHANGING, CANARY.encode(), seed)


KNOWN = [
    RouteKey.of("team-a", f"service-{number % 40}", "prod", f"v{number // 40}") for number in range(_KNOWN)
]
CHANGING = [RouteKey.of("team-a", "changing", "prod", f"v{number}") for number in range(_CHANGING)]
_FOREIGN = [RouteKey.of("team-b", f"service-{number}", "prod", "v0") for number in range(40)]


@contextmanager
def a_stand(servers: Servers, folder: Path, settings: Sequence[Mapping[str, str]]) -> Iterator[Stand]:
    """Lend a stand whose routes are made and whose nodes are ready; *settings* are each node's own."""
    name = f"fault_{os.getpid()}_{next(_numbers)}"
    with ExitStack() as stack:
        database = servers.postgres.create_database(name)
        stack.callback(servers.postgres.drop_database, name)
        servers.redis.flushall()
        servers.kafka.create_topic(name)
        topic = Topic(servers.kafka, name)
        stack.callback(topic.close)
        places = {**_SETTINGS, **database, **servers.redis.env(), **servers.kafka.env()}
        places["KAFKA_ROUTE_EVENTS_TOPIC"] = name
        nodes = [stack.enter_context(a_node(folder, {**places, **own})) for own in settings]
        stand = Stand(servers, database, topic, nodes, Ledger(), folder)
        _start(stand)
        yield stand


def _start(stand: Stand) -> None:
    first, *others = stand.nodes
    first.start("--migrate")
    _fill(stand)
    for node in others:
        node.start()


def _fill(stand: Stand) -> None:
    """Make all routes, in batches."""
    caller = Caller(stand.nodes[0], stand.ledger)
    creations = [{"operation": "create", **key._asdict(), "url": new_url()} for key in KNOWN]
    creations += [
        {"operation": "create", **key._asdict(), "url": f"https://{CANARY}.example.com/"} for key in _FOREIGN
    ]
    for start in range(0, len(creations), _BATCH):
        answer = caller.batch(creations[start : start + _BATCH])
        assert answer is not None
        assert answer.status == 200
    caller.close()
