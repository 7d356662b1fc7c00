"""The long poll of one route: it answers when that route changes, and not for others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from tests.api.calls import (
    OTHER_URL,
    ROUTES,
    after,
    create,
    created,
    deactivated,
    of_other_history,
    revision_of,
    tag_of,
)
from tests.api.processes import connections_of
from tests.node import Node, path_of, wait_until

RESOLVE = f"{ROUTES}/resolve"


@contextmanager
def _polling(
    node: Node, key: dict[str, str], headers: dict[str, str] | None = None, **more: str | int
) -> Iterator[Future[httpx2.Response]]:
    """Run a long poll, and return when the server has taken it up."""
    with node.client(timeout_s=30.0) as client, ThreadPoolExecutor(1) as caller:
        before = connections_of(node)
        question = {**key, "wait": 20, **more}
        future = caller.submit(client.get, RESOLVE, params=question, headers=headers)
        wait_until(lambda: connections_of(node) > before, what="the long poll's connection")
        client.get("/health")
        yield future


def _resolved(api: httpx2.Client, key: dict[str, str]) -> httpx2.Response:
    return api.get(RESOLVE, params=key)


@pytest.mark.parametrize("known", ["revision", "etag", "TM-Revision", "nothing"])
def test_change_of_the_route_ends_the_wait(stack: Node, api: httpx2.Client, known: str) -> None:
    key = created(api)
    answer = _resolved(api, key)
    more: dict[str, dict[str, str | int]] = {
        "revision": {"after": answer.json()["revision"]},
        "etag": {"after": answer.headers["ETag"].strip('"')},
        "TM-Revision": {"after": answer.headers["TM-Revision"]},
        "nothing": {},
    }
    with _polling(stack, key, None, **more[known]) as poll:
        created(api)
        changed = api.put(path_of(key), json={"url": OTHER_URL})
        found = poll.result(timeout=5)
    assert (found.status_code, found.json()["url"]) == (200, OTHER_URL)
    assert found.headers["ETag"] == changed.headers["ETag"]


def test_changes_of_other_routes_do_not_end_it_and_time_does(stack: Node, api: httpx2.Client) -> None:
    key = created(api)
    known = _resolved(api, key).json()
    began = time.monotonic()
    with _polling(stack, key, after=known["revision"], wait="0.8") as poll:
        for version in ("v7", "v8"):
            create(api, {**key, "version": version})
        found = poll.result(timeout=5)
    assert time.monotonic() - began >= 0.8
    assert (found.status_code, found.json()) == (200, known)


def test_time_that_is_up_with_a_known_tag_is_304(api: httpx2.Client) -> None:
    key = created(api)
    tag = tag_of(api, key)
    answer = api.get(
        RESOLVE, params={**key, "after": tag.strip('"'), "wait": "0.1"}, headers={"If-None-Match": tag}
    )
    assert (answer.status_code, answer.content) == (304, b"")


def test_route_that_changed_already_is_answered_at_once(api: httpx2.Client) -> None:
    key = created(api)
    known = _resolved(api, key).headers["TM-Revision"]
    api.put(path_of(key), json={"url": OTHER_URL})
    began = time.monotonic()
    answer = api.get(RESOLVE, params={**key, "after": known, "wait": 30})
    assert answer.json()["url"] == OTHER_URL
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("end", ["deactivate", "delete"])
def test_route_that_goes_is_404_and_its_return_ends_the_next_wait(
    stack: Node, api: httpx2.Client, end: str
) -> None:
    key = created(api)
    known = _resolved(api, key).json()["revision"]
    with _polling(stack, key, after=known) as poll:
        if end == "delete":
            api.delete(path_of(key))
        else:
            api.post(f"{ROUTES}/deactivate", json=key)
        gone = poll.result(timeout=5)
    assert gone.status_code == 404
    with _polling(stack, key, after=gone.headers["TM-Revision"]) as poll:
        api.put(path_of(key), json={"url": OTHER_URL, "is_active": True})
        assert poll.result(timeout=5).json()["url"] == OTHER_URL


def test_route_that_stays_away_is_404_when_time_is_up(api: httpx2.Client) -> None:
    key = deactivated(api)
    known = _resolved(api, key).headers["TM-Revision"]
    began = time.monotonic()
    answer = api.get(RESOLVE, params={**key, "after": known, "wait": "0.3"})
    assert answer.status_code == 404
    assert time.monotonic() - began >= 0.3


def test_position_of_another_history_is_answered_at_once(api: httpx2.Client) -> None:
    key = created(api)
    lost = of_other_history(_resolved(api, key).headers["TM-Revision"])
    began = time.monotonic()
    assert api.get(RESOLVE, params={**key, "after": lost, "wait": 30}).status_code == 200
    assert time.monotonic() - began < 5


def test_nobody_is_shown_less_than_what_they_know(api: httpx2.Client) -> None:
    key = created(api)
    ahead = after(_resolved(api, key).headers["TM-Revision"], 10_000)
    assert revision_of(ahead) > 10_000
    answer = api.get(RESOLVE, params={**key, "after": ahead, "wait": 1})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:traffic-manager:not-yet-reached")


@pytest.mark.parametrize("question", [{"after": "soon"}, {"wait": "61"}, {"wait": "-1"}])
def test_ill_formed_question_is_400(sqlite_api: httpx2.Client, question: dict[str, str]) -> None:
    key = created(sqlite_api)
    assert sqlite_api.get(RESOLVE, params={**key, **question}).status_code == 400
