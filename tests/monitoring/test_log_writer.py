"""A reader of the log that stops does not stop the server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from traffic_manager.monitoring.log_writer import LogWriter

LINE = b"x" * 1000
FULL = 4000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)  # lets a thread go that hangs in a write
    for thread in threading.enumerate():
        if thread.name == "log":
            thread.join()
    os.close(writing)


def read_lines(reading: int, count: int) -> list[bytes]:
    data = b""
    while data.count(b"\n") < count:
        data += os.read(reading, 65536)
    return data.splitlines()


def test_without_a_thread_a_line_is_out_when_write_returns(pipe: tuple[int, int]) -> None:
    LogWriter(pipe[1]).write(b"one")
    assert os.read(pipe[0], 100) == b"one\n"


def test_lines_keep_their_order_through_start_and_stop(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    writer.write(b"before")
    writer.start()
    for number in range(100):
        writer.write(b"%d" % number)
    writer.stop()
    writer.write(b"after")
    expected = [b"before", *(b"%d" % number for number in range(100)), b"after"]
    assert read_lines(pipe[0], 102) == expected


def test_a_reader_that_stops_costs_lines_but_no_time(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    writer.start()
    for _ in range(FULL * 2):  # blocks for ever if a write can block
        writer.write(LINE)
    assert writer.dropped >= FULL - 200  # the pipe itself has taken some
    writer.stop(timeout_s=0.05)
    writer.write(LINE)  # must not block either, for the reader has gone for good


def test_who_must_never_wait_drops_what_is_not_taken_at_once_and_tells_of_it_later(
    pipe: tuple[int, int],
) -> None:
    writer = LogWriter(pipe[1])
    writer.never_wait()
    with capture_logs() as lines:
        for _ in range(200):  # blocks for ever if a write can block
            writer.write(LINE)
        dropped, taken = writer.dropped, 200 - writer.dropped
        assert dropped >= 100
        assert len(read_lines(pipe[0], taken)) == taken
        writer.write(LINE)
    assert [(line["event"], line["lines"]) for line in lines] == [("log_lines_dropped", dropped)]
    assert read_lines(pipe[0], 1) == [LINE]


def test_the_log_says_how_many_lines_were_dropped_when_it_flows_again(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    with capture_logs() as lines:
        writer.start()
        for _ in range(FULL * 2):
            writer.write(LINE)
        dropped = writer.dropped
        reader = threading.Thread(target=read_lines, args=(pipe[0], FULL * 2 - dropped))
        reader.start()
        reader.join()
        writer.stop()
    assert [(line["event"], line["lines"]) for line in lines] == [("log_lines_dropped", dropped)]


def test_a_reader_that_is_gone_raises_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing)
    writer.write(LINE)
    os.close(writing)
    assert writer.dropped == 1


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1])
    writer.start()
    for _ in range(500):
        writer.write(LINE)
    assert read_lines(pipe[0], 500) == [LINE] * 500
    writer.stop()


def test_starting_twice_makes_one_thread(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    before = threading.active_count()
    writer.start()
    writer.start()
    assert threading.active_count() == before + 1
    writer.stop()
