"""The level of the log changes while a server runs, in all of its processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.monitoring.test_logs import lines_of
from tests.node import Node, wait_until, workers_of
from tests.promises.places import a_database, one_caller_per_worker
from tests.servers import PostgresServer


def events(node: Node, name: str) -> list[dict[str, object]]:
    """Return what the log says of one kind of event."""
    lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def at_least(node: Node, name: str, count: int) -> Callable[[], bool]:
    """Return what tells whether there are so many of them."""
    return lambda: len(events(node, name)) >= count


def test_loggers_that_are_in_use_change_their_level() -> None:
    lines = lines_of("""
        from traffic_manager.monitoring.logs import set_level
        configure_logging("INFO", as_json=True)
        library = logging.getLogger("some.library")
        for level in ("INFO", "DEBUG", "ERROR", "INFO"):
            set_level(level)
            log.debug("debug", at=level)
            log.info("info", at=level)
            library.debug("debug")
    """)
    assert [(line["event"], line.get("at", line["logger"])) for line in lines] == [
        ("info", "INFO"),
        ("debug", "DEBUG"),
        ("info", "DEBUG"),
        ("debug", "some.library"),
        ("info", "INFO"),
    ]


def test_a_server_of_one_process_changes_its_level_by_signals(tmp_path: Path) -> None:
    with Node(tmp_path, {"LOG_LEVEL": "WARNING"}) as node:
        node.start(wait_ready=False)
        with node.client() as client:
            wait_until(lambda: _answers(node), 30.0, "an answer")
            assert events(node, "request_answered") == []
            os.kill(node.pid, signal.SIGUSR1)
            wait_until(at_least(node, "log_level_changed", 1))
            client.get("/nowhere")
            wait_until(at_least(node, "request_answered", 1))
            os.kill(node.pid, signal.SIGUSR2)
            wait_until(at_least(node, "log_level_changed", 2))
            told = len(events(node, "request_answered"))
            client.get("/nowhere")
            assert node.stop() == 0
        assert len(events(node, "request_answered")) == told
    assert [line["to"] for line in events(node, "log_level_changed")] == ["DEBUG", "WARNING"]


def _answers(node: Node) -> bool:
    import httpx2

    try:
        return httpx2.get(f"{node.url}/health/live").status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.servers
def test_every_worker_of_a_node_changes_its_level_and_so_do_those_that_come_later(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with a_database(postgres) as database, Node(tmp_path, {**database, "API_WORKERS": "2"}) as node:
        node.start("--migrate")
        wait_until(at_least(node, "ready", 2))
        os.kill(node.pid, signal.SIGUSR1)
        wait_until(at_least(node, "log_level_changed", 3))  # the parent, and each worker
        os.kill(min(workers_of(node)), signal.SIGKILL)
        wait_until(at_least(node, "ready", 3))
        callers = one_caller_per_worker(node, 2)
        for caller in callers.values():
            caller.ask("GET", f"/nowhere/{caller.local_port}")
        paths = {f"/nowhere/{caller.local_port}" for caller in callers.values()}
        wait_until(lambda: paths <= {line["path"] for line in events(node, "request_answered")})
        assert node.stop() == 0
