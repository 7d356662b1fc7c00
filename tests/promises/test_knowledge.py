"""P8: "no active route" is only said from knowledge, never because something that would know has failed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.node import Node, wait_until, workers_of
from tests.promises.caller import Answer, Caller, NoAnswer
from tests.promises.crew import keys, new_url
from tests.promises.places import OUTAGES, a_node, one_caller_per_worker, soon, worker_behind
from tests.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.servers

KNOWN, UNCACHED, UNKNOWN, *_ = keys(8)
READY_AFTER_S = 5.0


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory, database: dict[str, str]) -> Iterator[Node]:
    """A node of two workers that hold the table."""
    with a_node(tmp_path_factory.mktemp("holder"), {**database, "API_WORKERS": "2"}) as node:
        node.start("--migrate")
        caller = Caller(node)
        for key in (KNOWN, UNCACHED):
            caller.put(key, new_url())
        yield node


@pytest.fixture(scope="module")
def asker(
    tmp_path_factory: pytest.TempPathFactory, holder: Node, database: dict[str, str], own_redis: RedisServer
) -> Iterator[Node]:
    """A node that holds nothing and has Redis. KNOWN is there and in Redis, UNCACHED is there alone."""
    settings = {**database, **own_redis.env(), "MIRROR_MAX_ROUTES": "0"}
    with a_node(tmp_path_factory.mktemp("asker"), settings) as node:
        yield node.start()


def statuses(answers: Sequence[Answer]) -> list[int]:
    """Return the statuses of *answers*."""
    return [answer.status for answer in answers]


def is_known(caller: Caller) -> bool:
    """Return whether KNOWN resolves there."""
    return caller.resolve(KNOWN).status == 200


def is_flagged(caller: Caller) -> bool:
    """Return whether the answer there is flagged."""
    return caller.resolve(KNOWN).is_flagged


def assert_says_come_again(answer: Answer) -> None:
    """Assert that it is a 503 that says when to ask again."""
    assert answer.status == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 3


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_complete_mirror_knows_without_the_database(
    holder: Node, own_postgres: PostgresServer, outage: str
) -> None:
    callers = [Caller(holder) for _ in range(4)]
    for caller in callers:
        wait_until(partial(is_known, caller), 5.0, "the route")
    with OUTAGES[outage](own_postgres):
        for caller in callers:
            wait_until(partial(is_flagged, caller), 3.0, "a flagged answer")
            known, unknown = caller.resolve(KNOWN), caller.resolve(UNKNOWN)
            assert statuses([known, unknown]) == [200, 404]
            # It was not there when the mirror was last at the head, and the answer says how long ago that was.
            assert unknown.is_flagged
            assert "age" in unknown.headers
        assert_says_come_again(callers[0].resolve(UNKNOWN, is_strong=True))


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_mirror_and_database_only_what_redis_holds_is_known(
    asker: Node, own_postgres: PostgresServer, own_redis: RedisServer, outage: str
) -> None:
    caller = Caller(asker)
    wait_until(lambda: caller.resolve(KNOWN).status == 200, 5.0, "the route")
    own_redis.flushall()
    # The first reads the database and fills Redis; from the second on Redis answers.
    wait_until(lambda: caller.resolve(KNOWN).status == 200, 5.0, "the route")
    with OUTAGES[outage](own_postgres):
        assert_says_come_again(caller.resolve(UNKNOWN))
        assert_says_come_again(caller.resolve(UNCACHED))
        assert caller.resolve(KNOWN).status in (200, 503)
        assert_says_come_again(caller.resolve(KNOWN, is_strong=True))


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_redis_the_database_knows(asker: Node, own_redis: RedisServer, outage: str) -> None:
    caller = Caller(asker)
    wait_until(lambda: caller.resolve(UNCACHED).status == 200, 5.0, "the database")
    with OUTAGES[outage](own_redis):
        answers = [caller.resolve(key) for _ in range(10) for key in (KNOWN, UNCACHED, UNKNOWN)]
    assert statuses(answers) == [200, 200, 404] * 10


def test_without_redis_and_database_nothing_is_known(
    asker: Node, own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    caller = Caller(asker)
    with OUTAGES["killed"](own_postgres), OUTAGES["killed"](own_redis):
        for key in (KNOWN, UNCACHED, UNKNOWN):
            assert_says_come_again(caller.resolve(key))
        lists = caller.ask("GET", "/api/v1/routes")
        assert_says_come_again(lists)
    wait_until(lambda: caller.resolve(KNOWN).status == 200, 5.0, "the route")


def test_a_worker_that_is_born_while_the_database_is_away_knows_what_its_parent_knew(
    holder: Node, own_postgres: PostgresServer, database: dict[str, str]
) -> None:
    before = set(workers_of(holder))
    now = own_postgres.psql("select now()")
    # The two workers, and once a second the parent.
    wait_until(lambda: polled_since(now, own_postgres, database) == 3, 20.0, "a poll of the parent")
    with OUTAGES["killed"](own_postgres):
        os.kill(min(before), signal.SIGKILL)
        (born,) = wait_until(lambda: set(workers_of(holder)) - before, 5.0, "another worker")
        caller = soon(lambda: caller_to(holder, born), 15.0, "a connection to the new worker")
        wait_until(lambda: caller.resolve(KNOWN).is_flagged, 5.0, "a flagged answer")
        answers = [caller.resolve(KNOWN), caller.resolve(UNKNOWN)]
        assert [(answer.status, answer.is_flagged) for answer in answers] == [(200, True), (404, True)]
        assert statuses([caller.ask("GET", f"/health/{probe}") for probe in ("live", "ready")]) == [200, 200]
    wait_until(lambda: not caller.resolve(KNOWN).is_flagged, READY_AFTER_S, "fresh answers")


def polled_since(moment: str, server: PostgresServer, database: dict[str, str]) -> int:
    """Return how many processes have asked for changes since."""
    polls = (
        f"datname = '{database['DB_NAME']}' and query like '%compacted_chain%' and pid <> pg_backend_pid()"
    )
    since = f"query_start > '{moment}'"
    return int(server.psql(f"select count(*) from pg_stat_activity where {polls} and {since}"))  # noqa: S608


def caller_to(node: Node, pid: int) -> Caller | None:
    """Return a connection to worker *pid* if the next one goes there."""
    caller = Caller(node)
    caller.ask("GET", "/health/live")
    return caller if worker_behind(node, caller) == pid else None


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_node_started_without_its_database_waits_for_it_alive_and_not_ready(
    tmp_path: Path,
    holder: Node,
    own_postgres: PostgresServer,
    database: dict[str, str],
    workers: str,
) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": workers}) as node:
        with OUTAGES["killed"](own_postgres):
            node.start(wait_ready=False)
            caller = Caller(node)
            wait_until(lambda: is_alive(node), 15.0, "life")
            probes = [caller.ask("GET", f"/health/{probe}") for probe in ("live", "ready")]
            assert statuses(probes) == [200, 503]
            for key in (KNOWN, UNKNOWN):
                assert_says_come_again(caller.resolve(key))
            written = caller.put(UNKNOWN, new_url())
            assert written is not None
            assert written.status == 503
            processes = workers_of(node)
        back_at = time.monotonic()
        wait_until(node.is_ready, READY_AFTER_S, "readiness after the database came")
        print(f"ready {time.monotonic() - back_at:.2f} s after the database came")
        # Each worker speaks for itself: the first to be ready says so while another still looks for the database.
        for caller in one_caller_per_worker(node, len(processes)).values():
            wait_until(partial(_serves, caller), READY_AFTER_S, "its answer")
        assert workers_of(node) == processes


def _serves(caller: Caller) -> bool:
    return caller.resolve(KNOWN).status == 200


def is_alive(node: Node) -> bool:
    """Return whether it answers at all."""
    try:
        return Caller(node).ask("GET", "/health/live").status == 200
    except NoAnswer:
        return False
