"""The parent of several workers: they are born with its table, and it replaces those that are wedged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.db.engines import postgres_settings_of
from tests.node import SOURCE, Node, wait_until, workers_of
from tests.promises.caller import RESOLVE, Caller
from tests.promises.crew import keys, new_url
from tests.promises.places import a_database, a_node, killed, one_caller_per_worker
from tests.servers import PostgresServer
from traffic_manager.db.migrate import migrate

pytestmark = pytest.mark.servers

KEY = keys(1)[0]


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The settings for an empty database."""
    with a_database(postgres) as settings:
        yield settings


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, database: dict[str, str]) -> Iterator[Node]:
    """A node of three workers."""
    with a_node(tmp_path_factory.mktemp("parent"), {**database, "API_WORKERS": "3"}) as started:
        yield started.start("--migrate")


def events(node: Node, name: str) -> list[dict[str, object]]:
    """Return what the log says of one kind of event."""
    lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def test_table_is_read_once_for_all_workers(node: Node) -> None:
    wait_until(lambda: len(events(node, "ready")) == 3, 10.0, "three workers")
    assert len(events(node, "synchronised")) == 1


def test_replacement_knows_at_once_what_was_written_before_its_birth(node: Node) -> None:
    loads = len(events(node, "synchronised"))
    for _ in range(3):
        url = new_url()
        assert Caller(node).put(KEY, url)
        born = replaced(node)
        assert one_caller_per_worker(node, 3)[born].resolve(KEY).json["url"] == url
    assert len(events(node, "synchronised")) == loads


def replaced(node: Node) -> int:
    """Kill a worker and return the one that takes its place."""
    before = set(workers_of(node))
    os.kill(min(before), signal.SIGKILL)
    (born,) = wait_until(lambda: set(workers_of(node)) - before, 5.0, "another worker")
    return born


def test_worker_that_was_well_is_replaced_within_a_second_however_often_it_is_killed(node: Node) -> None:
    for _ in range(5):
        began = time.monotonic()
        born = replaced(node)
        assert time.monotonic() - began < 1.0
        wait_until(lambda: time.monotonic() - began > 2.0, 5.0, "a life of two seconds")  # noqa: B023 at once
        os.kill(born, 0)


def test_replacement_that_is_born_after_a_restore_knows_the_new_history(
    node: Node, postgres: PostgresServer, database: dict[str, str]
) -> None:
    assert Caller(node).put(KEY, new_url())
    restored = f"update meta set epoch = '{'e' * 32}', epoch_number = epoch_number + 1"  # noqa: S608 a constant
    postgres.psql(restored, database["DB_NAME"])
    wait_until(lambda: len(events(node, "history_fork")) == 4, 5.0, "the fork, seen by all")
    wait_until(lambda: is_saved(node, "e" * 32), what="the snapshot, saved")
    born = replaced(node)
    assert one_caller_per_worker(node, 3)[born].resolve(KEY).headers["tm-revision"].startswith("eeeeeeee.")
    assert len(events(node, "history_fork")) == 4


def is_saved(node: Node, epoch: str) -> bool:
    """Return whether the snapshot is of *epoch*."""
    path = node.folder / "data" / f"snapshot-{node.port}"
    return path.exists() and epoch.encode() in path.read_bytes()


def test_worker_that_is_born_while_the_database_is_away_knows_the_keys_that_its_parent_loaded(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with a_database(own_postgres) as database:
        migrate(postgres_settings_of(database))
        with a_node(tmp_path, {**database, **REQUIRED, "API_WORKERS": "3"}) as node:
            key = a_key_for(node, "viewer:*/*")
            node.start()
            with killed(own_postgres):
                born = replaced(node)
                caller = one_caller_per_worker(node, 3)[born]
                names = urlencode(KEY._asdict())
                answers = [caller.ask("GET", f"{RESOLVE}?{names}", **shown) for shown in (bearer(key), {})]
    assert [answer.status for answer in answers] == [404, 401]


# The first worker stops beating, the second stops altogether; those after them are well.
WEDGING = """
import os, signal, sys, time
from traffic_manager import parent
from traffic_manager.monitoring.heartbeats import Heartbeats

parent._WEDGED_AFTER_S = parent._BIRTH_S = 0.3
hearts = Heartbeats(1)
births = 0

class Estate:
    tend = stop = close = lambda self: None
    buried = lambda self, index: None

    def before_fork(self):
        global births
        births += 1

def work(index):
    print(births, flush=True)
    if births == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(0.05)
        if births > 2:
            hearts.beat(index)

sys.exit(parent.Parent(1, work, Estate(), hearts, patience_s=5.0).run())
"""


def test_worker_whose_event_loop_stands_still_is_replaced() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", WEDGING], stdout=subprocess.PIPE, env={"PYTHONPATH": SOURCE}, text=True
    )
    try:
        assert parent.stdout is not None
        said = ""
        while "3\n" not in said.splitlines(keepends=True):
            said += parent.stdout.readline()
        assert said.count("worker_wedged") == said.count("worker_died") == 2
        with pytest.raises(subprocess.TimeoutExpired):
            parent.wait(1.0)
        parent.terminate()
        assert parent.wait(10.0) == 0
    finally:
        parent.kill()
        parent.communicate()
