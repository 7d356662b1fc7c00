"""What stands on standard output, seen from outside the process."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from typing import Any

SETUP = """
import logging, os, structlog, threading, warnings
from traffic_manager.monitoring.logs import configure_logging
log = structlog.get_logger("traffic_manager.test")
"""


def output_of(program: str) -> str:
    """Return what *program* writes to standard output; nothing may go to the other one."""
    code = SETUP + textwrap.dedent(program)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stderr == ""
    return ended.stdout


def lines_of(program: str) -> list[dict[str, Any]]:  # Any: the values of a JSON object
    return [json.loads(line) for line in output_of(program).splitlines()]


def test_an_event_is_one_json_line_with_time_level_and_logger() -> None:
    [line] = lines_of("""
        configure_logging("INFO", as_json=True)
        log.info("route_activated", route="a/b/c/d", revision=5)
    """)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "logger": "traffic_manager.test",
        "event": "route_activated",
        "route": "a/b/c/d",
        "revision": 5,
    }


def test_events_below_the_level_are_not_written() -> None:
    lines = lines_of("""
        configure_logging("WARNING", as_json=True)
        log.info("quiet")
        logging.getLogger("alembic").info("quiet")
        log.warning("loud")
    """)
    assert [line["event"] for line in lines] == ["loud"]


def test_bound_facts_stand_in_every_line_of_every_kind_of_logger() -> None:
    lines = lines_of("""
        configure_logging("INFO", as_json=True)
        with structlog.contextvars.bound_contextvars(correlation_id="abc"):
            log.info("one")
            logging.getLogger("uvicorn.error").info("two")
        log.info("three")
    """)
    assert [line.get("correlation_id") for line in lines] == ["abc", "abc", None]


def test_the_standard_librarys_loggers_write_the_same_lines_once() -> None:
    [line] = lines_of("""
        logging.getLogger("uvicorn").addHandler(logging.StreamHandler())
        logging.basicConfig()
        configure_logging("INFO", as_json=True)
        logging.getLogger("uvicorn.error").warning("it\\n%s", "happened")
    """)
    assert (line["logger"], line["level"], line["event"]) == ("uvicorn.error", "warning", "it\nhappened")


def test_configuring_again_replaces_what_was_there() -> None:
    lines = lines_of("""
        configure_logging("INFO", as_json=True)
        configure_logging("INFO", as_json=True)
        logging.getLogger("alembic").info("once")
        structlog.get_logger().info("once")
    """)
    assert len(lines) == 2


def test_an_exception_is_one_line_with_its_stack() -> None:
    lines = lines_of("""
        configure_logging("INFO", as_json=True)
        for logger in (log, logging.getLogger("uvicorn.error")):
            try:
                1 / 0
            except ZeroDivisionError:
                logger.exception("unhandled_error")
    """)
    assert len(lines) == 2
    for line in lines:
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_a_console_without_a_terminal_has_no_colours() -> None:
    text = output_of("""
        configure_logging("INFO", as_json=False)
        log.info("route_activated", revision=5)
    """)
    assert "route_activated" in text
    assert "\x1b" not in text


def test_a_terminal_has_colours() -> None:
    ours, theirs = pty.openpty()
    code = SETUP + 'configure_logging("INFO", as_json=False)\nlog.info("route_activated", revision=5)'
    subprocess.run([sys.executable, "-c", code], stdout=theirs, timeout=30, check=True)
    assert b"\x1b[" in os.read(ours, 4096)


def test_lines_of_many_threads_are_whole() -> None:
    lines = lines_of("""
        writer = configure_logging("INFO", as_json=True)
        writer.start()
        def talk():
            for i in range(200):
                log.info("talk", number=i, text="x" * 300)
        threads = [threading.Thread(target=talk) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        writer.stop()
    """)
    assert len(lines) == 1600


def test_a_process_that_ends_without_stopping_the_writer_loses_no_line() -> None:
    lines = lines_of("""
        configure_logging("INFO", as_json=True).start()
        for i in range(100):
            log.info("last_words")
    """)
    assert len(lines) == 100


def test_a_child_that_is_forked_writes_too() -> None:
    lines = lines_of("""
        warnings.simplefilter("ignore")  # from 3.12 on Python warns of forks beside threads
        configure_logging("INFO", as_json=True).start()
        child = os.fork()
        if child == 0:
            log.info("from_the_child")
            os._exit(0)
        os.waitpid(child, 0)
        log.info("from_the_parent")
    """)
    assert [line["event"] for line in lines] == ["from_the_child", "from_the_parent"]
