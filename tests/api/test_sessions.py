"""Readers see their own writes: `TM-Min-Revision` and `Cache-Control: no-cache`, on every stack."""

from __future__ import annotations

import httpx2
import pytest

from tests.api.calls import (
    CHANGES,
    OTHER_URL,
    ROUTES,
    URL,
    a_fresh_key,
    after,
    code_of,
    created,
    fields_of,
    head_of,
    of_other_history,
    revision_of,
)
from tests.node import Node, path_of, resolve

READS = pytest.mark.parametrize(
    "read", ["resolve", "list", "get", "history", "changes"], ids=lambda read: str(read)
)


def _read(api: httpx2.Client, read: str, key: dict[str, str], **headers: str) -> httpx2.Response:
    path = {
        "resolve": f"{ROUTES}/resolve",
        "list": ROUTES,
        "get": path_of(key),
        "history": f"{path_of(key)}/history",
        "changes": CHANGES,
    }[read]
    names = key if read in ("resolve", "list", "changes") else {}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.get(path, params=names, headers=given)


@READS
def test_own_write_is_seen_over_any_connection(stack: Node, api: httpx2.Client, read: str) -> None:
    """New connections go to any of the workers."""
    key = a_fresh_key()
    for number in range(5):
        token = api.put(path_of(key), json={"url": f"{URL}/{number}"}).headers["TM-Revision"]
        closing = {"Connection": "close", "TM_Min_Revision": token}
        answer = _read(api, read, key, **closing)
        assert (answer.status_code, f"{URL}/{number}" in answer.text) == (200, True)
        assert revision_of(answer.headers["TM-Revision"]) >= revision_of(token)


@READS
def test_own_deletion_is_seen_over_any_connection(api: httpx2.Client, read: str) -> None:
    for _ in range(3):
        key = created(api)
        token = api.delete(path_of(key)).headers["TM-Revision"]
        answer = _read(api, read, key, Connection="close", TM_Min_Revision=token)
        expected = {"resolve": 404, "get": 404}.get(read, 200)
        assert answer.status_code == expected
        assert revision_of(answer.headers["TM-Revision"]) >= revision_of(token)


@READS
def test_revision_that_does_not_exist_yet_is_503_with_a_time_to_come_back(
    api: httpx2.Client, read: str
) -> None:
    key = created(api)
    answer = _read(api, read, key, TM_Min_Revision=after(head_of(api), 1000))
    assert (answer.status_code, code_of(answer), answer.headers["Retry-After"]) == (
        503,
        "not-yet-reached",
        "1",
    )


@READS
def test_revision_of_another_history_is_412(api: httpx2.Client, read: str) -> None:
    key = created(api)
    answer = _read(api, read, key, TM_Min_Revision=of_other_history(head_of(api)))
    assert (answer.status_code, code_of(answer)) == (412, "epoch-mismatch")


@pytest.mark.parametrize("read", ["list", "get", "history", "changes"])
def test_refused_token_is_answered_with_the_head(api: httpx2.Client, read: str) -> None:
    key = created(api)
    head = head_of(api)
    for token in (after(head, 1000), of_other_history(head)):
        assert _read(api, read, key, TM_Min_Revision=token).headers["TM-Revision"] == head


@READS
@pytest.mark.parametrize(
    "given", ["", "1", "x", "abcdefgh.1", "00000000.-1", "00000000.01", "0.1", "1" * 500]
)
def test_nonsense_is_400_and_names_the_header(sqlite_api: httpx2.Client, read: str, given: str) -> None:
    answer = _read(sqlite_api, read, a_fresh_key(), TM_Min_Revision=given)
    assert (answer.status_code, code_of(answer)) == (400, "invalid-revision")
    assert fields_of(answer) == ["TM-Min-Revision"]


@pytest.mark.parametrize("given", ["no-cache", "No-Cache", "max-age=0, no-cache"])
def test_strong_read_sees_what_was_just_committed(api: httpx2.Client, given: str) -> None:
    key = created(api)
    for number in range(5):
        token = api.put(path_of(key), json={"url": f"{OTHER_URL}/{number}"}).headers["TM-Revision"]
        answer = resolve(api, key, cache_control=given, connection="close")
        assert answer.json()["url"] == f"{OTHER_URL}/{number}"
        assert revision_of(answer.headers["TM-Revision"]) >= revision_of(token)


def test_strong_read_of_an_unknown_route_is_404(api: httpx2.Client) -> None:
    answer = resolve(api, a_fresh_key(), cache_control="no-cache")
    assert (answer.status_code, answer.headers["TM-Revision"]) == (404, head_of(api))


def test_reader_without_a_token_never_goes_back_on_one_connection(stack: Node, api: httpx2.Client) -> None:
    key = created(api)
    seen = []
    with stack.client() as reader:
        for number in range(10):
            api.put(path_of(key), json={"url": f"{URL}/{number}"})
            seen += [resolve(reader, key).json()["revision"] for _ in range(3)]
    assert seen == sorted(seen)


def test_change_is_seen_without_a_token_before_long(stack: Node, api: httpx2.Client) -> None:
    key = created(api)
    api.put(path_of(key), json={"url": OTHER_URL})
    for _ in range(4):
        with stack.client() as reader:
            answer = resolve(reader, key, tm_min_revision=head_of(api))
            assert answer.json()["url"] == OTHER_URL
