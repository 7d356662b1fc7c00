"""`Idempotency-Key` over HTTP: the same answer again, one change, for every call that changes routes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import httpx2
import pytest

from tests.api.calls import BATCH, OTHER_URL, ROUTES, URL, a_fresh_key, code_of, created, fields_of
from tests.node import path_of

Key = Mapping[str, str]
Send = Callable[[httpx2.Client, Key, Mapping[str, str]], httpx2.Response]
SAME = ("ETag", "TM-Revision", "Location", "Content-Type", "Cache-Control")


def _delete(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    return api.delete(path_of(key), headers=headers)


def _put(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    return api.put(path_of(key), json={"url": OTHER_URL}, headers=headers)


def _put_conditionally(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    return api.put(path_of(key), json={"url": OTHER_URL}, headers={**headers, "If-Match": "*"})


def _create(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    return api.post(ROUTES, json={**key, "version": "new", "url": URL}, headers=headers)


def _deactivate(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    return api.post(f"{ROUTES}/deactivate", json=dict(key), headers=headers)


def _activate(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    return api.post(f"{ROUTES}/activate", json=dict(key), headers=headers)


def _batch(api: httpx2.Client, key: Key, headers: Mapping[str, str]) -> httpx2.Response:
    operations = [{"operation": "delete", **key}, {"operation": "create", **key, "url": OTHER_URL}]
    return api.post(BATCH, json={"operations": operations}, headers=headers)


CALLS = [_delete, _put, _put_conditionally, _create, _deactivate, _activate, _batch]


def _changes(api: httpx2.Client, key: Key) -> int:
    found = api.get("/api/v1/changes", params={"tenant": key["tenant"]}).json()["changes"]
    return len(found)


@pytest.mark.parametrize("send", CALLS)
def test_the_same_request_is_answered_the_same_and_changes_nothing_more(
    api: httpx2.Client, send: Send
) -> None:
    key = created(api)
    named = {"Idempotency-Key": f"{key['tenant']}-1"}
    first = send(api, key, named)
    assert first.is_success, first.text
    made = _changes(api, key)
    for spelled in (named, {"Idempotency-Key": f'"{key["tenant"]}-1"'}):
        again = send(api, key, spelled)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert [again.headers.get(name) for name in SAME] == [first.headers.get(name) for name in SAME]
        assert again.headers["Idempotency-Replayed"] == "?1"
    assert "Idempotency-Replayed" not in first.headers
    assert _changes(api, key) == made


def test_another_request_with_the_same_key_is_422_and_changes_nothing(api: httpx2.Client) -> None:
    key = created(api)
    named = {"Idempotency-Key": f"{key['tenant']}-2"}
    assert _put(api, key, named).status_code == 200
    made = _changes(api, key)
    for send in (_delete, _create, _deactivate, _put_conditionally, _batch):
        refused = send(api, key, named)
        assert (refused.status_code, code_of(refused)) == (422, "idempotency-key-reused")
    assert _changes(api, key) == made


def test_a_refusal_is_not_kept(api: httpx2.Client) -> None:
    key = a_fresh_key()
    named = {"Idempotency-Key": f"{key['tenant']}-3"}
    assert _delete(api, key, named).status_code == 404
    api.post(ROUTES, json={**key, "url": URL})
    assert _delete(api, key, named).status_code == 204


@pytest.mark.parametrize("bad", ["", '"', '""', 'a"b', "a b", "a\\b", '"a', "k" * 256, "a, b"])
def test_an_ill_formed_key_is_400_and_names_the_header(sqlite_api: httpx2.Client, bad: str) -> None:
    key = a_fresh_key()
    for send in (_create, _delete, _batch):
        refused = send(sqlite_api, key, {"Idempotency-Key": bad})
        assert (refused.status_code, code_of(refused)) == (400, "invalid-idempotency-key")
        assert fields_of(refused) == ["Idempotency-Key"]


def test_the_longest_key_is_taken(sqlite_api: httpx2.Client) -> None:
    assert _create(sqlite_api, a_fresh_key(), {"Idempotency-Key": "~" * 255}).status_code == 201


def test_a_dry_run_keeps_nothing(sqlite_api: httpx2.Client) -> None:
    key = a_fresh_key()
    body = {"operations": [{"operation": "create", **key, "url": URL}]}
    named = {"Idempotency-Key": f"{key['tenant']}-4"}
    for is_dry in (True, True, False, True):
        answer = sqlite_api.post(BATCH, json={**body, "dry_run": is_dry}, headers=named)
        assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False) or (
            answer.status_code,
            code_of(answer),
        ) == (409, "route-conflict")


def test_reads_take_no_notice_of_it(sqlite_api: httpx2.Client) -> None:
    key = created(sqlite_api)
    for _ in range(2):
        answer = sqlite_api.get(path_of(key), headers={"Idempotency-Key": "a b"})
        assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False)


def test_of_twenty_at_once_one_changes_something_and_all_are_told_the_same(api: httpx2.Client) -> None:
    key = created(api)
    named = {"Idempotency-Key": f"{key['tenant']}-5"}
    answers: list[tuple[int, str | None]] = []

    def send() -> None:
        answer = _delete(api, key, named)
        answers.append((answer.status_code, answer.headers.get("TM-Revision")))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), len(set(answers)), answers[0][0]) == (20, 1, 204)
    assert _changes(api, key) == 2
