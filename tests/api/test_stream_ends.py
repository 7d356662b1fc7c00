"""How streams live and end: heart-beats, a bounded life, slow readers, stops, restores, and readers who leave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.api.calls import BATCH, URL, create, created, head_of
from tests.api.processes import connections_of
from tests.api.streams import STREAM, Stream, streaming
from tests.node import Node, a_key, wait_until

QUICK = {
    "WATCH_LIMIT": "20",
    "WATCH_HEARTBEAT_SECONDS": "0.2",
    "WATCH_LIFE_SECONDS": "2",
    "WATCH_SLOW_SECONDS": "0.5",
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server whose streams live fast."""
    with Node(tmp_path_factory.mktemp("quick"), QUICK) as node:
        yield node.start()


@pytest.fixture
def quick_api(quick: Node) -> Iterator[httpx2.Client]:
    with quick.client() as client:
        yield client


def _metric(api: httpx2.Client, name: str) -> float:
    lines = api.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_silent_stream_says_that_it_lives(quick: Node) -> None:
    with streaming(quick, tenant="nobody") as stream:
        stream.next("progress")
        assert stream.next("end").data["reason"] == "life-over"
        assert stream.comments >= 3


def test_id_of_a_filtered_stream_moves_on_with_the_heart_beats(quick: Node, quick_api: httpx2.Client) -> None:
    with streaming(quick, tenant="nobody") as stream:
        stream.next("progress")
        created(quick_api)
        head = head_of(quick_api)
        assert stream.next("progress").id == head


def test_stream_ends_when_its_time_is_over_and_goes_on_from_its_last_id(
    quick: Node, quick_api: httpx2.Client
) -> None:
    began = time.monotonic()
    with streaming(quick) as stream:
        end = stream.next("end")
        with pytest.raises(EOFError):
            stream.next()
    assert end.data["reason"] == "life-over"
    assert 1.5 <= time.monotonic() - began < 5
    key = created(quick_api)
    with streaming(quick, {"Last-Event-ID": str(stream.last_id)}) as again:
        assert again.next("change").data["tenant"] == key["tenant"]


def test_no_more_than_the_limit_may_watch_and_who_leaves_makes_room(
    quick: Node, quick_api: httpx2.Client
) -> None:
    with ExitStack() as open_streams:
        streams = [open_streams.enter_context(streaming(quick)) for _ in range(20)]
        refused = quick_api.get(STREAM)
        assert (refused.status_code, int(refused.headers["Retry-After"]) in range(5, 8)) == (503, True)
        assert refused.json()["type"].endswith(":too-many-watchers")
        polled = quick_api.get("/api/v1/changes", params={"after": head_of(quick_api), "wait": 1})
        assert polled.status_code == 503
        streams[0].close()
        wait_until(lambda: _is_open(quick), what="room for another stream")


def _is_open(node: Node) -> bool:
    with Stream(node) as stream:
        return stream.begin().status == 200


def test_reader_who_leaves_is_forgotten(quick: Node, quick_api: httpx2.Client) -> None:
    before = _metric(quick_api, 'tm_watch_streams_ended_total{reason="disconnected"}')
    for _ in range(5):
        with streaming(quick):
            pass
    name = 'tm_watch_streams_ended_total{reason="disconnected"}'
    wait_until(lambda: _metric(quick_api, name) >= before + 5, what="the end of 5 streams")


def test_slow_reader_is_cut_off_with_a_word_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with Node(tmp_path, {"WATCH_SLOW_SECONDS": "2"}) as node, node.start().client() as api:
        with Stream(node, {"after": "0"}, receive_bytes=4096) as slow:
            assert slow.begin().status == 200
            assert list(_changing_many(api))[-1] == 3000
            ended = 'tm_watch_streams_ended_total{reason="too-slow"}'
            wait_until(lambda: _metric(api, ended) == 1, what="the end of the slow stream")
            *told, end = [event for event in slow if event.kind in ("change", "end")]
        assert [event.data["revision"] for event in told] == list(range(1, len(told) + 1))
        assert len(told) < 3000
        assert end.data["reason"] == "too-slow"
        with streaming(node, {"Last-Event-ID": str(slow.last_id)}) as again:
            assert again.next("change").data["revision"] == len(told) + 1
        assert '"level":"error"' not in node.log()


def test_reader_who_is_behind_what_memory_holds_is_told_page_after_page_from_the_database(
    tmp_path: Path,
) -> None:
    with Node(tmp_path) as node, node.start().client() as api:
        upto = list(_changing_many(api))[-1]
        node.stop()
        node.start()
        with streaming(node, after=0) as stream:
            found = [stream.next("change").data["revision"] for _ in range(upto)]
            created(api)
            assert stream.next("change").data["revision"] == upto + 1
        assert found == list(range(1, upto + 1))


def test_reader_that_takes_nothing_is_cut_and_slows_nobody(tmp_path: Path) -> None:
    with (
        Node(tmp_path, {"WATCH_SLOW_SECONDS": "0.5"}) as node,
        node.start().client() as api,
        Stream(node, {"after": "0"}, receive_bytes=4096) as hanging,
    ):
        assert hanging.begin().status == 200
        with streaming(node, after="0") as other:
            for upto in _changing_many(api):
                found = [other.next("change").data["revision"] for _ in range(500)]
                assert found == list(range(upto - 499, upto + 1))
        wait_until(lambda: connections_of(node) == 1, what="the end of the connection")


def _changing_many(api: httpx2.Client) -> Iterator[int]:
    """Make 3,000 changes of some 11 MB, more than a connection buffers; yield the revision after each 500."""
    for round_ in range(6):
        url = f"{URL}/{round_}/{'p' * 1500}"
        operations = [{"operation": "put", **a_key(version=f"v{n}"), "url": url} for n in range(500)]
        assert api.post(BATCH, json={"operations": operations}).status_code == 200
        yield 500 * (round_ + 1)


class TestServerThatStops:
    def test_streams_are_told_to_come_back_and_the_server_ends_well(self, tmp_path: Path) -> None:
        with Node(tmp_path) as node, node.start().client() as api, ExitStack() as open_streams:
            streams = [open_streams.enter_context(streaming(node)) for _ in range(30)]
            key = created(api)
            for stream in streams:
                stream.next("change")
            assert node.stop() == 0
            ends = [stream.next("end") for stream in streams]
            assert {e.data["reason"] for e in ends} == {"draining"}
            assert {str(stream.last_id).rpartition(".")[2] for stream in streams} == {"1"}
            assert len({stream.retries_ms[-1] for stream in streams}) > 5, "they would all come at once"
            node.start()
            create(api, {**key, "version": "v9"})
            with streaming(node, {"Last-Event-ID": str(streams[0].last_id)}) as again:
                assert again.next("change").data["version"] == "v9"

    def test_killed_server_costs_its_streams_nothing_but_time(self, tmp_path: Path) -> None:
        with Node(tmp_path) as node:
            node.start()
            with node.client() as api:
                created(api)
                with streaming(node, after=0) as stream:
                    stream.next("change")
                    node.kill()
                    with pytest.raises((EOFError, ConnectionError, ValueError)):
                        stream.next("change")
            node.start()
            with node.client() as api:
                created(api)
                with streaming(node, {"Last-Event-ID": str(stream.last_id)}) as again:
                    assert again.next("change").data["revision"] == 2


def test_restored_database_ends_streams_and_says_so(tmp_path: Path) -> None:
    with Node(tmp_path) as node, node.start().client() as api:
        created(api)
        with streaming(node, after=0) as stream:
            stream.next("change")
            _begin_another_history(tmp_path / "routes.db")
            end = stream.next("end")
        assert end.data["reason"] == "history-changed"
        answer = api.get(STREAM, headers={"Last-Event-ID": str(stream.last_id)})
        assert answer.status_code == 410
        with streaming(node, {"Last-Event-ID": str(stream.last_id)}, include="snapshot") as again:
            assert [again.next().kind for _ in range(3)] == ["snapshot", "route", "snapshot-end"]


def _begin_another_history(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("update meta set epoch = ?, epoch_number = 2", ("f" * 32,))
    connection.close()
