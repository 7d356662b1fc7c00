"""A server that cannot do its work says so at its start, all at once, and by the names of the settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.node import SOURCE, Node, wait_until, workers_of
from tests.promises.caller import Caller
from tests.promises.crew import keys, new_url
from tests.promises.places import a_database, a_node
from tests.servers import PostgresServer
from traffic_manager.routing.model import RouteKey

pytestmark = pytest.mark.servers

ROUTES = keys(3)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database."""
    with a_database(postgres) as settings:
        yield settings


def refusal(folder: Path, settings: Mapping[str, str], *arguments: str) -> str:
    """Return what a server writes that refuses to start; fails if it starts or ends well."""
    with a_node(folder, settings) as node:
        node.start(*arguments, wait_ready=False)
        assert node.wait_for_exit() not in (0, -9, -11)
        return node.log()


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    wrong = {
        "API_PORT": "many",
        "API_WORKERS": "0",
        "DB_POOL_MIN": "-1",
        "LOG_LEVEL": "LOUD",
        "MIRROR_MAX_ROUTES": "-5",
        "KAFKA_ROUTE_EVENTS_TOPIC": "no spaces",
        "REDIS_PORT": "99999",
    }
    said = refusal(tmp_path, wrong)
    assert [name for name in wrong if name not in said] == []
    assert "Traceback" not in said


def test_a_second_server_on_the_same_sqlite_file_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with a_node(tmp_path) as first:
        first.start()
        said = refusal(tmp_path, {"DB_PATH": first.environment["DB_PATH"]})
        assert "DB_PATH" in said
        answer = Caller(first).put(ROUTES[0], new_url())
        assert answer is not None
        assert answer.status == 201


def test_several_workers_on_sqlite_are_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"API_WORKERS": "2"})
    assert "API_WORKERS" in said
    assert "DB_HOST" in said


def test_a_port_that_is_taken_is_refused_by_name(tmp_path: Path) -> None:
    with a_node(tmp_path) as first:
        first.start()
        assert "API_PORT" in refusal(tmp_path, {"API_PORT": str(first.port)})


def test_postgres_without_tables_is_refused_with_the_way_out(
    tmp_path: Path, database: dict[str, str]
) -> None:
    assert "migrate" in refusal(tmp_path, database)


def fill(node: Node) -> None:
    """Make more routes than `MIRROR_MAX_ROUTES` of the test allows."""
    caller = Caller(node)
    for key in ROUTES:
        caller.put(key, new_url())


def assert_answers_all(node: Node) -> None:
    """Assert that *node* knows every route, and which names have none."""
    caller = Caller(node)
    for _ in range(2):
        assert [caller.resolve(key).status for key in ROUTES] == [200] * len(ROUTES)
        assert caller.resolve(RouteKey.of("team-a", "unknown", "prod", "v1")).status == 404


def test_a_server_with_more_routes_than_its_mirror_may_hold_answers_all_of_them(tmp_path: Path) -> None:
    with a_node(tmp_path) as node:
        fill(node.start())
        assert node.stop() == 0
        too_small = {"DB_PATH": node.environment["DB_PATH"], "MIRROR_MAX_ROUTES": "2"}
        with a_node(tmp_path, too_small) as bounded:
            assert_answers_all(bounded.start())


@pytest.mark.parametrize("workers", ["1", "3"])
def test_workers_with_more_routes_than_their_mirrors_may_hold_answer_all_of_them(
    tmp_path: Path, database: dict[str, str], workers: str
) -> None:
    with a_node(tmp_path, database) as node:
        fill(node.start("--migrate"))
        too_small = {**database, "MIRROR_MAX_ROUTES": "2", "API_WORKERS": workers}
        with a_node(tmp_path, too_small) as bounded:
            assert_answers_all(bounded.start())


def test_the_script_of_the_specification_starts_a_server(tmp_path: Path) -> None:
    node = a_node(tmp_path)
    script = Path(SOURCE) / "main.py"
    process = subprocess.Popen(
        [sys.executable, str(script)], env=node.environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: answers(node), 20.0, "an answer")
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def answers(node: Node) -> bool:
    """Return whether a server that the test started itself is ready."""
    try:
        with node.client(2.0) as client:
            return client.get("/health/ready").status_code == 200
    except Exception as error:
        return "Connect" not in type(error).__name__ and not isinstance(error, OSError)


def test_as_many_workers_run_as_were_asked_for_and_the_log_says_so(
    tmp_path: Path, database: dict[str, str]
) -> None:
    with a_node(tmp_path, {**database, "API_WORKERS": "3"}) as node:
        node.start("--migrate")
        assert len(workers_of(node)) == 3
        lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
        assert [line["workers"] for line in lines if line["event"] == "listening"] == [3]
