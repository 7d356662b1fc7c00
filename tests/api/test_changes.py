"""The log of changes over HTTP: positions, filters, pages and long poll."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from urllib.parse import urlencode

import httpx2
import pytest

from tests.api.calls import (
    BATCH,
    CHANGES,
    OTHER_URL,
    URL,
    a_fresh_key,
    after,
    code_of,
    create,
    created,
    fields_of,
    head_of,
    of_other_history,
    revision_of,
)
from tests.api.processes import connections_of, other_sockets_of, threads_of
from tests.node import Json, Node, path_of, wait_until


def _changes(api: httpx2.Client, **question: str | int) -> Json:
    answer = api.get(CHANGES, params=question)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


class TestReading:
    def test_changes_after_a_position_come_in_their_order(self, api: httpx2.Client) -> None:
        head = head_of(api)
        key = created(api)
        api.put(path_of(key), json={"url": OTHER_URL})
        api.delete(path_of(key))
        found = _changes(api, after=head)
        assert [c["action"] for c in found["changes"]] == ["created", "updated", "deleted"]
        assert [c["revision"] for c in found["changes"]] == [revision_of(after(head, n)) for n in (1, 2, 3)]

    def test_change_is_told_as_in_the_routes_history(self, api: httpx2.Client) -> None:
        key = created(api)
        changes = _changes(api, **key)["changes"]
        assert changes == api.get(f"{path_of(key)}/history").json()["changes"]

    def test_answer_tells_where_the_log_stands(self, api: httpx2.Client) -> None:
        head = create(api, a_fresh_key()).headers["TM-Revision"]
        answer = api.get(CHANGES, params={"after": head})
        found = answer.json()
        assert (found["changes"], found["head"], found["next_after"]) == ([], head, head)
        assert answer.headers["TM-Revision"] == head
        assert found["epoch"].startswith(head.partition(".")[0])

    def test_bare_revision_is_of_this_history(self, api: httpx2.Client) -> None:
        head = head_of(api)
        key = created(api)
        found = _changes(api, after=revision_of(head))
        assert [c["tenant"] for c in found["changes"]] == [key["tenant"]]

    def test_without_a_position_the_log_is_told_from_its_beginning(self, api: httpx2.Client) -> None:
        created(api)
        assert _changes(api, limit=1)["changes"][0]["revision"] == 1

    def test_pages_join_to_the_whole(self, api: httpx2.Client) -> None:
        position = head_of(api)
        for _ in range(5):
            created(api)
        whole = _changes(api, after=position)
        joined = []
        while position != whole["head"]:
            page = _changes(api, after=position, limit=2)
            joined += page["changes"]
            position = page["next_after"]
        assert joined == whole["changes"]

    def test_full_page_goes_on_after_its_last_change(self, api: httpx2.Client) -> None:
        head = head_of(api)
        for _ in range(3):
            created(api)
        found = _changes(api, after=head, limit=2)
        assert (found["next_after"], found["head"]) == (after(head, 2), after(head, 3))

    @pytest.mark.parametrize("name", ["tenant", "service", "env", "version"])
    def test_each_name_filters(self, api: httpx2.Client, name: str) -> None:
        key, head = a_fresh_key(), head_of(api)
        create(api, key)
        create(api, {**key, name: "wanted"})
        found = _changes(api, after=head, **{name: "wanted"})
        assert [c[name] for c in found["changes"]] == ["wanted"]

    def test_filter_that_matches_nothing_moves_on_all_the_same(self, api: httpx2.Client) -> None:
        head = head_of(api)
        created(api)
        found = _changes(api, after=head, tenant="nobody")
        assert (found["changes"], found["next_after"]) == ([], after(head, 1))


class TestPositionsThatCannotBeContinued:
    @pytest.mark.parametrize("kind", ["future", "bare future", "other history"])
    def test_position_is_410_with_the_head_to_go_on_from(self, api: httpx2.Client, kind: str) -> None:
        head = create(api, a_fresh_key()).headers["TM-Revision"]
        position = {
            "future": after(head, 1),
            "bare future": str(revision_of(head) + 1),
            "other history": of_other_history(head),
        }[kind]
        answer = api.get(CHANGES, params={"after": position})
        assert (answer.status_code, code_of(answer)) == (410, "history-gone")
        assert (answer.json()["head"], answer.headers["TM-Revision"]) == (head, head)

    @pytest.mark.parametrize("wait", ["0", "30"])
    def test_long_poll_does_not_wait_for_them(self, api: httpx2.Client, wait: str) -> None:
        answer = api.get(CHANGES, params={"after": after(head_of(api), 1), "wait": wait})
        assert answer.status_code == 410

    @pytest.mark.parametrize(
        "given",
        ["", "-1", "x", "1.5", "0000000.1", "ABCDEF01.1", "1" * 19, "00000000.01", "٣", " 1"],
    )
    def test_nonsense_is_400_and_names_the_parameter(self, sqlite_api: httpx2.Client, given: str) -> None:
        answer = sqlite_api.get(CHANGES, params={"after": given})
        assert (answer.status_code, code_of(answer)) == (400, "invalid-revision")
        assert fields_of(answer) == ["after"]


@contextmanager
def _polling(node: Node, **question: str | int) -> Iterator[Future[httpx2.Response]]:
    """Run a long poll, and return when the server has taken it up."""
    with node.client(timeout_s=30.0) as client, ThreadPoolExecutor(1) as caller:
        before = connections_of(node)
        future = caller.submit(client.get, CHANGES, params=question)
        wait_until(lambda: connections_of(node) > before, what="the long poll's connection")
        client.get("/health")  # on a connection of its own; the poll was accepted before it
        yield future


class TestLongPoll:
    def test_change_that_is_there_already_is_told_at_once(self, api: httpx2.Client) -> None:
        head = head_of(api)
        created(api)
        began = time.monotonic()
        assert len(_changes(api, after=head, wait=30)["changes"]) == 1
        assert time.monotonic() - began < 5

    def test_matching_change_ends_the_wait(self, stack: Node, api: httpx2.Client) -> None:
        key, head = a_fresh_key(), head_of(api)
        with _polling(stack, after=head, wait=30, tenant=key["tenant"]) as poll:
            create(api, key)
            found = poll.result(timeout=5).json()
        assert [c["tenant"] for c in found["changes"]] == [key["tenant"]]
        assert found["next_after"] == found["head"]

    def test_other_changes_do_not_end_it(self, stack: Node, api: httpx2.Client) -> None:
        key, head = a_fresh_key(), head_of(api)
        with _polling(stack, after=head, wait=30, tenant=key["tenant"]) as poll:
            others = [created(api) for _ in range(3)]
            create(api, key)
            found = poll.result(timeout=5).json()
        assert [c["tenant"] for c in found["changes"]] == [key["tenant"]]
        assert len(others) == 3

    def test_all_of_a_batch_is_told_together(self, stack: Node, api: httpx2.Client) -> None:
        key, head = a_fresh_key(), head_of(api)
        operations = [
            {"operation": "create", **key, "version": f"v{number}", "url": URL} for number in range(50)
        ]
        with _polling(stack, after=head, wait=30, tenant=key["tenant"]) as poll:
            api.post(BATCH, json={"operations": operations})
            assert len(poll.result(timeout=5).json()["changes"]) == 50

    def test_time_that_is_up_ends_it_with_nothing(self, api: httpx2.Client) -> None:
        head = head_of(api)
        began = time.monotonic()
        found = _changes(api, after=head, wait="0.3")
        assert 0.3 <= time.monotonic() - began < 3
        assert (found["changes"], found["next_after"]) == ([], head)

    def test_others_changes_move_the_position_on_when_time_is_up(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        head = head_of(api)
        with _polling(stack, after=head, wait=2, tenant="nobody") as poll:
            created(api)
            found = poll.result(timeout=5).json()
        assert (found["changes"], found["next_after"]) == ([], after(head, 1))


def _begin_poll(node: Node, question: Mapping[str, str | int]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", node.port), timeout=30)
    line = f"GET {CHANGES}?{urlencode(question)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    connection.sendall(line.encode())
    return connection


def test_200_long_polls_hold_no_thread_and_no_connection_and_all_are_told(
    stack: Node, api: httpx2.Client
) -> None:
    key, head = a_fresh_key(), head_of(api)
    question: dict[str, str | int] = {"after": head, "wait": 30, "tenant": key["tenant"]}
    threads, sockets, callers = threads_of(stack), other_sockets_of(stack), connections_of(stack)
    with ExitStack() as held:
        polls = []
        for number in range(200):
            polls.append(held.enter_context(_begin_poll(stack, question)))
            if number % 4 == 3:
                head_of(api)  # they come a few at a time, not all at once
        wait_until(lambda: connections_of(stack) >= callers + 200, what="200 connections")
        created(api)
        # The pools may grow up to their limits, for reads and connections, but not with the callers.
        assert api.get("/health").status_code == 200
        assert threads_of(stack) <= threads + 20
        assert other_sockets_of(stack) <= sockets + 20
        create(api, key)
        answers = [poll.makefile("rb").read() for poll in polls]
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert all(key["tenant"].encode() in answer for answer in answers)
