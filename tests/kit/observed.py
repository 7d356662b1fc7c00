"""Two nodes in earnest (PostgreSQL, Redis, Kafka, TLS, keys) with our own configuration of Prometheus beside them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path

from tests.access.authority import SERVER, Authority
from tests.access.issue import REQUIRED, a_key_for
from tests.kit.traffic import Keys
from tests.monitoring.observability import PROMETHEUS
from tests.node import Node, wait_until
from tests.servers import KafkaServer, PostgresServer, RedisServer
from tests.servers.ports import HOST
from tests.servers.prometheus import PrometheusServer
from traffic_manager.errors import SourceUnavailable

_numbers = count(1)
_SETTINGS = {
    "API_WORKERS": "2",
    "WATCH_LIFE_SECONDS": "10",
    "LIMIT_TENANT_LISTS": "4",
}
# What a user fills in, and how fast a test wants to see.
_INTERVAL, _KEY = "15s", "/run/secrets/metrics_key"
_TLS = """\
    # scheme: https
    # tls_config:
    #   ca_file: /etc/prometheus/ca.pem
"""


@dataclass(frozen=True)
class Servers:
    """What the nodes depend on."""

    postgres: PostgresServer
    redis: RedisServer
    kafka: KafkaServer


@dataclass(frozen=True)
class Observed:
    """What there is to look at."""

    servers: Servers
    nodes: Sequence[Node]
    prometheus: PrometheusServer
    keys: Keys
    authority: Authority


@contextmanager
def observed(servers: Servers, folder: Path) -> Iterator[Observed]:
    """Lend two nodes, which run, and a Prometheus that scrapes them every two seconds."""
    authority = Authority(folder)
    with ExitStack() as stack:
        database = f"observed_{os.getpid()}_{next(_numbers)}"
        settings = _settings(servers, database, authority)
        stack.callback(servers.postgres.drop_database, database)
        nodes = [stack.enter_context(_node(folder / name, settings, authority)) for name in ("one", "two")]
        for node in nodes:
            node.start("--migrate")
        config = _configured(folder, nodes, _a_key(nodes[0], "monitor:*/*"), authority)
        prometheus = stack.enter_context(PrometheusServer(config))
        yield Observed(servers, nodes, prometheus, _keys(nodes[0]), authority)


def _settings(servers: Servers, database: str, authority: Authority) -> Mapping[str, str]:
    certificate, key = authority.issue(*SERVER, is_server=True, lifetime=timedelta(days=90))
    return {
        **_SETTINGS,
        **REQUIRED,
        **servers.postgres.create_database(database),
        **servers.redis.env(),
        **servers.kafka.env(),
        "KAFKA_ROUTE_EVENTS_TOPIC": database,
        "TLS_CERT_FILE": str(certificate),
        "TLS_KEY_FILE": str(key),
    }


def _node(folder: Path, settings: Mapping[str, str], authority: Authority) -> Node:
    folder.mkdir()
    return Node(folder, settings, authority.trust())


def _keys(node: Node) -> Keys:
    return Keys(_a_key(node, "editor:*/*"), _a_key(node, "resolver:team-b/*"))


def _a_key(node: Node, grant: str) -> str:
    """Return a new key; on a busy machine the first connection may take longer than a server waits for it."""

    def made() -> str:
        with suppress(SourceUnavailable):
            return a_key_for(node, grant, owner=grant.partition(":")[0])
        return ""

    return wait_until(made, 60.0, "a key")


def _configured(folder: Path, nodes: Sequence[Node], key: str, authority: Authority) -> Path:
    """Return `prometheus.yml` as a user fills it in, but for the interval."""
    ours = folder / "prometheus"
    shutil.copytree(PROMETHEUS, ours)
    (ours / "metrics_key").write_text(key)
    text = (ours / "prometheus.yml").read_text()
    tls = _TLS.replace("# ", "").replace("/etc/prometheus/ca.pem", str(authority.file))
    for old, new in ((_INTERVAL, "2s"), (_KEY, str(ours / "metrics_key")), (_TLS, tls)):
        assert old in text
        text = text.replace(old, new)
    (ours / "prometheus.yml").write_text(text)
    addresses = "".join(f"    - {HOST}:{node.port}\n" for node in nodes)
    (ours / "targets" / "traffic-manager.yml").write_text(f"- targets:\n{addresses}")
    return ours / "prometheus.yml"
