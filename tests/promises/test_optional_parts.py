"""P10: Redis and Kafka are optional. Broken, they change no status code and no readiness, and nobody waits for
them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.node import Node, wait_until
from tests.promises.caller import Answer, Caller
from tests.promises.crew import keys, new_url
from tests.promises.places import a_node, frozen, killed
from tests.servers import KafkaServer, PostgresServer, RedisServer

pytestmark = pytest.mark.servers

KEY, UNKNOWN = keys(2)
ROUNDS = 15
NORMAL = [200, 200, 200, 404, 200, 200] * ROUNDS
# Of a write or read; without an outage they take some ms, and these servers share two cores with others.
PATIENCE_S = 0.5


@pytest.fixture(scope="module")
def settings(
    postgres: PostgresServer, own_redis: RedisServer, own_kafka: KafkaServer
) -> Iterator[dict[str, str]]:
    """The settings of a node that has everything."""
    name = "promise_optional"
    parts = {**postgres.create_database(name), **own_redis.env(), **own_kafka.env()}
    yield {**parts, "KAFKA_ROUTE_EVENTS_TOPIC": name}
    postgres.drop_database(name)


# 0 holds nothing, so that reads go to Redis.
@pytest.fixture(scope="module", params=["1000000", "0"], ids=["holding the table", "holding nothing"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]
) -> Iterator[Node]:
    """A node that has everything."""
    own = {**settings, "MIRROR_MAX_ROUTES": request.param}
    with a_node(tmp_path_factory.mktemp("node"), own) as started:
        yield started.start("--migrate")


def day(caller: Caller) -> list[int]:
    """Do what clients do all day; return the statuses. Fails if anybody waits."""
    answers: list[Answer] = []
    for _ in range(ROUNDS):
        answers += [
            caller.ask("PUT", f"/api/v1/routes/{KEY}", {"url": new_url()}),
            caller.resolve(KEY),
            caller.resolve(KEY, is_strong=True),
            caller.resolve(UNKNOWN),
            caller.ask("GET", "/api/v1/changes?limit=1"),
            caller.ask("GET", "/health/ready"),
        ]
    slowest_s = max(answer.ended_ns - answer.began_ns for answer in answers) / 1e9
    assert slowest_s < PATIENCE_S
    return [answer.status for answer in answers]


def is_reported(caller: Caller, part: str, status: str) -> bool:
    """Return whether readiness is good and says *status* of *part*."""
    answer = caller.ask("GET", "/health/ready")
    return answer.status == 200 and answer.json["checks"][part]["status"] == status


def test_no_answer_depends_on_redis_or_kafka(
    node: Node, own_redis: RedisServer, own_kafka: KafkaServer
) -> None:
    caller = Caller(node)
    caller.put(KEY, new_url())
    wait_for_both(caller, "healthy")
    assert day(caller) == NORMAL
    with frozen(own_redis), frozen(own_kafka):
        assert day(caller) == NORMAL
        wait_for_both(caller, "degraded")
        assert day(caller) == NORMAL
    wait_for_both(caller, "healthy")
    with killed(own_redis):
        assert day(caller) == NORMAL
    assert day(caller) == NORMAL


def wait_for_both(caller: Caller, status: str) -> None:
    """Return when readiness is good and says *status* of Redis and of Kafka."""
    for part in ("cache", "kafka"):
        wait_until(partial(is_reported, caller, part, status), 15.0, f"a {status} {part}")


def test_a_node_starts_and_serves_without_both_and_finds_them_later(
    tmp_path_factory: pytest.TempPathFactory,
    settings: dict[str, str],
    own_redis: RedisServer,
    own_kafka: KafkaServer,
) -> None:
    with (
        frozen(own_redis),
        killed(own_kafka),
        a_node(tmp_path_factory.mktemp("late"), {**settings, "MIRROR_MAX_ROUTES": "0"}) as late,
    ):
        began = time.monotonic()
        late.start("--migrate")
        print(f"ready without Redis and Kafka after {time.monotonic() - began:.1f} s")
        caller = Caller(late)
        caller.put(KEY, new_url())
        assert day(caller) == NORMAL
        own_redis.thaw()
        own_kafka.start()
        wait_for_both(caller, "healthy")
        wait_until(partial(is_all_sent, caller), 20.0, "an empty outbox")


def is_all_sent(caller: Caller) -> bool:
    """Return whether nothing waits in the outbox."""
    return b"\ntm_outbox_lag_events 0.0" in caller.ask("GET", "/metrics").body
