"""A real Kafka: one process that is broker and controller (KRaft)."""

from __future__ import annotations

import base64
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import programs
from .ports import accepts, free_port
from .server import Server

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

NODE_ID = 1
DEFAULTS = {
    "process.roles": "broker,controller",
    "node.id": str(NODE_ID),
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.segment.bytes": str(16 * 2**20),
    "offsets.topic.segment.bytes": str(4 * 2**20),
    "log.index.size.max.bytes": str(2**20),
    "log.cleaner.dedupe.buffer.size": str(8 * 2**20),
    # After a kill the controller refuses the broker until its old session has run out. With 9 s, the default,
    # a restart takes 13 s, and with 3 s it takes 5 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}
# The serial collector and the first compiler shorten the start from 3.3 s to 2.1 s (two cores), and halve the
# work for it. No performance data: a killed process would leave its file behind.
JVM_OPTIONS = (
    *("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
ANSWER_TIMEOUT_S = 10.0


class KafkaServer(Server):
    """Kafka without authentication. It makes no topic by itself: see `create_topic`."""

    name = "kafka"

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings=settings)
        self.controller_port = free_port()

    @property
    def bootstrap_servers(self) -> str:
        return f"{self.host}:{self.port}"

    def env(self) -> dict[str, str]:
        return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers}

    def create_topic(self, name: str, partitions: int = 4) -> None:
        """Return when the topic exists. Raises KafkaException, also if it existed before."""
        from confluent_kafka.cimpl import NewTopic  # see _admin

        admin = self._admin()  # Kept until the answer is there: without it the request is dropped.
        admin.create_topics([NewTopic(name, partitions)])[name].result(ANSWER_TIMEOUT_S)

    def delete_topic(self, name: str) -> None:
        """Return when the topic is gone. Raises KafkaException."""
        admin = self._admin()
        admin.delete_topics([name])[name].result(ANSWER_TIMEOUT_S)

    def grow_topic(self, name: str, partitions: int) -> None:
        """Return when the topic has so many partitions. Raises KafkaException."""
        from confluent_kafka.cimpl import NewPartitions  # see _admin

        admin = self._admin()
        admin.create_partitions([NewPartitions(name, partitions)])[name].result(ANSWER_TIMEOUT_S)

    def configure_topic(self, name: str, setting: str, value: str) -> None:
        """Return when a topic has that setting. Raises KafkaException."""
        # Late, see `_admin`; from where they are, because the package does not say that it exports them.
        from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
        from confluent_kafka.admin._resource import ResourceType

        entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        admin = self._admin()
        admin.incremental_alter_configs([resource])[resource].result(ANSWER_TIMEOUT_S)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _create(self) -> None:
        """Do what Kafka's own `format` does, without the second that its JVM takes."""
        self._data.mkdir()
        shutil.copy(programs.kafka() / "bootstrap.checkpoint", self._data)
        meta = {
            "version": "1",
            "cluster.id": _random_id(),
            "node.id": str(NODE_ID),
            "directory.id": _random_id(),
        }
        _write_properties(self._data / "meta.properties", meta)

    def _command(self) -> Sequence[str | Path]:
        config = self.folder / "kraft.properties"
        _write_properties(config, DEFAULTS | self._places() | self.settings)
        classes = f"{programs.kafka()}/libs/*"
        temporary = f"-Djava.io.tmpdir={self.folder}"
        return [programs.java(), *JVM_OPTIONS, temporary, "-cp", classes, "kafka.Kafka", config]

    def _places(self) -> dict[str, str]:
        controller = f"{self.host}:{self.controller_port}"
        return {
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.quorum.voters": f"{NODE_ID}@{controller}",
            "log.dirs": str(self._data),
        }

    def _is_ready(self) -> bool:
        """Return whether the broker takes part in our cluster, and every partition has its leader."""
        if not accepts(self.port):
            return False
        from confluent_kafka import KafkaException  # see _admin

        try:
            metadata = self._admin().list_topics(timeout=1)
        except KafkaException:
            return False
        partitions = [part for topic in metadata.topics.values() for part in topic.partitions.values()]
        is_ours = metadata.cluster_id == self._cluster_id() and NODE_ID in metadata.brokers
        return is_ours and all(part.leader == NODE_ID for part in partitions)

    def _cluster_id(self) -> str:
        lines = (self._data / "meta.properties").read_text().splitlines()
        return next(line for line in lines if line.startswith("cluster.id=")).partition("=")[2]

    def _admin(self) -> AdminClient:
        # Imported late: `install` loads this package, and may run before any wheel is there.
        from confluent_kafka.admin import AdminClient

        # log_level 0: that the broker does not answer yet is no news here.
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def _ports(self) -> list[int]:
        return [self.port, self.controller_port]

    def _choose_ports(self) -> None:
        self.port, self.controller_port = free_port(), free_port()


def _random_id() -> str:
    """Return an identifier in Kafka's form, and none that a command line could take for an option."""
    identifier = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return identifier if not identifier.startswith("-") else _random_id()


def _write_properties(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
