"""The test servers keep what the tests that use them rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import KafkaServer, PostgresServer, RedisServer, Server, ServerStartError
from tests.servers.ports import free_port

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


def test_postgres_gives_every_test_a_database_of_its_own(postgres: PostgresServer) -> None:
    env = postgres.create_database('one of-its "own')

    with psycopg.connect(postgres.conninfo()) as default, _connected(env) as own:
        own.execute("create table here (id int)")
        assert own.execute("select to_regclass('here') is not null").fetchone() == (True,)
        assert default.execute("select to_regclass('here') is not null").fetchone() == (False,)


def test_postgres_asks_for_the_password(postgres: PostgresServer) -> None:
    env = postgres.env() | {"DB_PASSWORD": "wrong"}

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        _connected(env)


def test_postgres_is_durable_and_has_room_for_many_connections(postgres: PostgresServer) -> None:
    assert (postgres.psql("show fsync"), postgres.psql("show max_connections")) == ("on", "200")


def test_postgres_keeps_what_was_committed_before_a_kill(postgres: PostgresServer) -> None:
    port = postgres.port
    postgres.psql("create table kept as select 42 as answer", postgres.database)

    postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.conninfo())
    postgres.start()

    assert (postgres.psql("table kept", postgres.database), postgres.port) == ("42", port)


def test_frozen_postgres_answers_nobody_until_it_is_thawed(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.conninfo()) as open_before:
        open_before.execute("select 1")
        postgres.freeze()
        states = [_state(pid) for pid in _children_of(postgres.pid)]
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(postgres.conninfo(), connect_timeout=2)
        postgres.thaw()

        assert open_before.execute("select 1").fetchone() == (1,)
    assert set(states) == {"T"}


def test_redis_answers_and_forgets_on_request(redis_server: RedisServer) -> None:
    client = _client(redis_server)
    client.set("key", "value")

    redis_server.flushall()

    assert client.get("key") is None


def test_redis_comes_back_empty_on_the_same_port_after_a_kill(redis_server: RedisServer) -> None:
    _client(redis_server).set("key", "value")

    redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        _client(redis_server).ping()
    redis_server.start()

    assert _client(redis_server).get("key") is None


def test_frozen_redis_answers_nobody_until_it_is_thawed(redis_server: RedisServer) -> None:
    client = _client(redis_server)
    client.ping()

    redis_server.freeze()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    redis_server.thaw()

    assert client.ping()


def test_kafka_keeps_messages_over_a_kill(kafka: KafkaServer) -> None:
    kafka.create_topic("kept", partitions=2)
    _produce(kafka, "kept", b"before")

    kafka.kill()
    kafka.start()
    _produce(kafka, "kept", b"after")

    assert {b"before", b"after"} == set(_consume(kafka, "kept", partitions=2, count=2))


def test_kafka_makes_no_topic_by_itself(kafka: KafkaServer) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})

    producer.list_topics("never-created", timeout=5)

    assert "never-created" not in producer.list_topics(timeout=5).topics


def test_frozen_kafka_answers_nobody_until_it_is_thawed(kafka: KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.list_topics(timeout=5)

    kafka.freeze()
    with pytest.raises(KafkaException, match=r"_TIMED_OUT|_TRANSPORT"):
        admin.list_topics(timeout=0.5)
    kafka.thaw()

    assert admin.list_topics(timeout=10).brokers


def test_a_stopped_server_leaves_no_process_and_a_closed_one_no_file() -> None:
    server = PostgresServer().start()
    pids = [server.pid, *_children_of(server.pid)]

    server.stop()
    assert (server.is_running, [pid for pid in pids if _is_alive(pid)]) == (False, [])

    server.close()
    assert not server.folder.exists()


def test_a_server_lives_on_when_the_thread_that_started_it_ends() -> None:
    with RedisServer() as server:
        server.kill()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()

        server.flushall()


def test_a_server_moves_away_from_a_port_that_was_taken_before_its_first_start() -> None:
    with RedisServer() as first:
        second = RedisServer()
        second.port = first.port
        with second:
            assert second.port != first.port


def test_a_server_that_cannot_start_says_why_with_its_log() -> None:
    server = RedisServer(settings={"maxmemory": "nonsense"})

    with pytest.raises(ServerStartError, match="maxmemory"):
        server.start()
    server.close()


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("kind", ["PostgresServer", "RedisServer"])
def test_nothing_is_left_when_the_process_that_started_a_server_is_killed(kind: str, is_frozen: bool) -> None:
    script = f"""
import time
from tests.servers import {kind}
server = {kind}().start()
if {is_frozen}:
    server.freeze()
print(server.pid, server.folder, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        pid, folder = owner.stdout.readline().split()
        pids = [int(pid), *_children_of(int(pid))]
        owner.kill()

    _wait_until(lambda: not any(map(_is_alive, pids)) and not Path(folder).exists())


def test_ctrl_c_ends_the_play_servers_and_their_environment_file(tmp_path: Path) -> None:
    env_file = tmp_path / "services.env"
    command = [sys.executable, "-m", "tests.servers", "--only", "redis", "--env-file", str(env_file)]
    play = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert play.stdout is not None
    with play:
        printed = [play.stdout.readline() for _ in range(2)]
        written = env_file.read_text()
        play.send_signal(signal.SIGINT)

    assert (play.returncode, env_file.exists()) == (0, False)
    assert "".join(printed) == written
    assert written.startswith("export REDIS_HOST=127.0.0.1\nexport REDIS_PORT=")


def test_free_ports_are_none_that_a_client_may_get() -> None:
    assert free_port() < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def _connected(env: dict[str, str]) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=env["DB_HOST"],
        port=env["DB_PORT"],
        dbname=env["DB_NAME"],
        user=env["DB_USER"],
        password=env["DB_PASSWORD"],
    )


def _client(server: Server) -> redis.Redis:
    return redis.Redis(host=server.host, port=server.port, socket_timeout=0.3, retry=Retry(NoBackoff(), 0))


def _produce(kafka: KafkaServer, topic: str, value: bytes) -> None:
    outcomes: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.timeout.ms": 10_000})
    producer.produce(topic, value, on_delivery=lambda error, _: outcomes.append(error))
    producer.flush(15)
    assert outcomes == [None]


def _consume(kafka: KafkaServer, topic: str, partitions: int, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test"})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
    try:
        return [message.value() for message in consumer.consume(count, timeout=15)]
    finally:
        consumer.close()


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
