"""Where a fault is tried: real servers, and two nodes of two workers on a database and a topic of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.faults.load import Load
from tests.faults.phases import QUICK, Phases
from tests.faults.proxy import Proxy
from tests.monitoring.exposition import values
from tests.node import START_TIMEOUT_S, Node, wait_until
from tests.promises.caller import Caller
from tests.promises.crew import new_url
from tests.promises.history import History
from tests.promises.ledger import Ledger
from tests.promises.places import a_node
from tests.promises.topic import Topic
from tests.servers import KafkaServer, PostgresServer, RedisServer
from traffic_manager.routing.model import RouteKey

NODES = 2
WORKERS = 2  # of each
_KNOWN = 2000
_CHANGING = 50
_BATCH = 1000
# In every URL of a tenant that nobody asks for.
CANARY = "canary-of-another-tenant"
# Whether somebody relays.
LEASE_IS_HELD = """select 1 from leases where name = 'relay'
    and expires_at > (extract(epoch from clock_timestamp()) * 1000000)::bigint"""
_numbers = count(1)
# Pools that are full from the beginning: what they have more afterwards is a leak.
_SETTINGS = {"API_WORKERS": str(WORKERS), "DB_POOL_MIN": "6", "DB_POOL_MAX": "6"}


@dataclass(frozen=True)
class Servers:
    """The servers of all faults, tried one after another; each leaves them running."""

    postgres: PostgresServer
    redis: RedisServer
    kafka: KafkaServer


@dataclass(frozen=True)
class Stand:
    """The place of one run. `ledger` holds what was done beside the load; `findings` what the fault itself finds
    wrong; `measured` what it counts for the criteria; `forgotten` the log as it was before a compaction;
    `failpoints` the folder for them; `until_the_end` what ends with the nodes."""

    servers: Servers
    database: Mapping[str, str]
    topic: Topic
    nodes: Sequence[Node]
    proxies: Mapping[str, Proxy]
    phases: Phases
    seed: int
    failpoints: Path
    until_the_end: ExitStack
    ledger: Ledger = field(default_factory=Ledger)
    forgotten: list[History] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def conninfo(self) -> str:
        """The database, as psycopg takes it."""
        return self.servers.postgres.conninfo(self.database["DB_NAME"])

    def ask_database(self, statement: str) -> str:
        """Return what psql prints for *statement*."""
        return self.servers.postgres.psql(statement, self.database["DB_NAME"])

    def metric(self, node: int, name: str) -> float:
        """Return the sum of all samples of a metric."""
        text = Caller(self.nodes[node]).ask("GET", "/metrics").body
        found = values(text).items()
        return sum(value for sample, value in found if sample.partition("{")[0] == name)

    def load(self) -> Load:
        """Return L0 on these nodes."""
        return a_load(self.nodes, self.seed)


KNOWN = [
    RouteKey.of("team-a", f"service-{number % 40}", "prod", f"v{number // 40}") for number in range(_KNOWN)
]
CHANGING = [RouteKey.of("team-a", "changing", "prod", f"v{number}") for number in range(_CHANGING)]
_FOREIGN = [RouteKey.of("team-b", f"service-{number}", "prod", "v0") for number in range(40)]


def a_load(nodes: Sequence[Node], seed: int) -> Load:
    """Return L0 on *nodes*."""
    return Load([node.port for node in nodes], KNOWN, CHANGING, CANARY.encode(), seed)


@contextmanager
def a_stand(
    servers: Servers,
    folder: Path,
    settings: Sequence[Mapping[str, str]],
    proxied: Sequence[str] = (),
    phases: Phases = QUICK,
    seed: int = 1,
) -> Iterator[Stand]:
    """Lend a stand whose routes are made and whose nodes are ready. *settings* are each node's own; to what is
    *proxied* they go through a proxy."""
    name = f"fault_{os.getpid()}_{next(_numbers)}"
    with ExitStack() as stack:
        database = servers.postgres.create_database(name)
        stack.callback(servers.postgres.drop_database, name)
        servers.redis.flushall()
        servers.kafka.create_topic(name)
        topic = Topic(servers.kafka, name)
        stack.callback(topic.close)
        failpoints = folder / "failpoints"
        failpoints.mkdir()
        places = {**_SETTINGS, **database, **servers.redis.env(), **servers.kafka.env()}
        places |= {"KAFKA_ROUTE_EVENTS_TOPIC": name, "TM_FAILPOINTS": str(failpoints)}
        ports = {"postgres": ("DB_PORT", servers.postgres.port), "redis": ("REDIS_PORT", servers.redis.port)}
        proxies = {}
        for server in proxied:
            variable, port = ports[server]
            proxies[server] = stack.enter_context(closing(Proxy(port)))
            places[variable] = str(proxies[server].port)
        nodes = [stack.enter_context(a_node(folder, {**places, **own})) for own in settings]
        stand = Stand(servers, database, topic, nodes, proxies, phases, seed, failpoints, stack)
        _start(stand)
        yield stand


def _start(stand: Stand) -> None:
    first, *others = stand.nodes
    first.start("--migrate")
    for node in others:
        node.start(wait_ready=False)
    fill(first, stand.ledger)
    for node in others:
        wait_until(node.is_ready, START_TIMEOUT_S, "readiness of the other nodes")
    # Who begins to has seven threads more.
    if any(node.environment.get("RELAY") != "off" for node in stand.nodes):
        wait_until(lambda: stand.ask_database(LEASE_IS_HELD) != "", START_TIMEOUT_S, "a relay")


def fill(node: Node, ledger: Ledger) -> None:
    """Make all routes, in batches."""
    caller = Caller(node, ledger)
    creations = [{"operation": "create", **key._asdict(), "url": new_url()} for key in KNOWN]
    creations += [
        {"operation": "create", **key._asdict(), "url": f"https://{CANARY}.example.com/"} for key in _FOREIGN
    ]
    for start in range(0, len(creations), _BATCH):
        answer = caller.batch(creations[start : start + _BATCH])
        assert answer is not None
        assert answer.status == 200
    caller.close()
