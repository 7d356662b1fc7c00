"""`If-Match` and `If-None-Match: *` guard every write, on every stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.api.calls import (
    OTHER_URL,
    ROUTES,
    URL,
    a_fresh_key,
    code_of,
    create,
    created,
    deactivated,
    fields_of,
    head_of,
    of_other_history,
    tag_of,
)
from tests.node import path_of

Write = Callable[[httpx2.Client, Mapping[str, str], Mapping[str, str]], httpx2.Response]


def _put(api: httpx2.Client, key: Mapping[str, str], headers: Mapping[str, str]) -> httpx2.Response:
    return api.put(path_of(key), json={"url": OTHER_URL}, headers=headers)


def _delete(api: httpx2.Client, key: Mapping[str, str], headers: Mapping[str, str]) -> httpx2.Response:
    return api.delete(path_of(key), headers=headers)


def _deactivate(api: httpx2.Client, key: Mapping[str, str], headers: Mapping[str, str]) -> httpx2.Response:
    return api.post(f"{ROUTES}/deactivate", json=key, headers=headers)


def _activate(api: httpx2.Client, key: Mapping[str, str], headers: Mapping[str, str]) -> httpx2.Response:
    return api.post(f"{ROUTES}/activate", json=key, headers=headers)


def _create(api: httpx2.Client, key: Mapping[str, str], headers: Mapping[str, str]) -> httpx2.Response:
    return api.post(ROUTES, json={**key, "url": URL}, headers=headers)


WRITES = pytest.mark.parametrize("write", [_put, _delete, _deactivate, _activate, _create])


@WRITES
def test_present_tag_lets_the_write_pass(api: httpx2.Client, write: Write) -> None:
    key = created(api)
    assert write(api, key, {"If-Match": tag_of(api, key)}).is_success


@WRITES
def test_present_tag_in_a_list_lets_the_write_pass(api: httpx2.Client, write: Write) -> None:
    key = created(api)
    assert write(api, key, {"If-Match": f'"x", W/"y" ,{tag_of(api, key)}'}).is_success


@WRITES
def test_star_lets_the_write_pass_on_any_route(api: httpx2.Client, write: Write) -> None:
    assert write(api, created(api), {"If-Match": "*"}).is_success


@WRITES
def test_old_tag_is_refused_with_the_route_as_it_is_and_no_change(api: httpx2.Client, write: Write) -> None:
    key = created(api)
    old = tag_of(api, key)
    now = api.put(path_of(key), json={"url": OTHER_URL}).json()
    head = head_of(api)
    answer = write(api, key, {"If-Match": old})
    assert (answer.status_code, code_of(answer)) == (412, "precondition-failed")
    assert (answer.json()["current"], answer.headers["TM-Revision"], head_of(api)) == (now, head, head)


@WRITES
def test_weak_tag_never_matches(api: httpx2.Client, write: Write) -> None:
    key = created(api)
    assert write(api, key, {"If-Match": f"W/{tag_of(api, key)}"}).status_code == 412


@WRITES
def test_tag_of_another_history_never_matches(api: httpx2.Client, write: Write) -> None:
    key = created(api)
    tag = of_other_history(tag_of(api, key).strip('"'))
    assert write(api, key, {"If-Match": f'"{tag}"'}).status_code == 412


@WRITES
@pytest.mark.parametrize("given", ["*", '"x"'])
def test_missing_route_matches_nothing(api: httpx2.Client, write: Write, given: str) -> None:
    head = head_of(api)
    answer = write(api, a_fresh_key(), {"If-Match": given})
    assert (answer.status_code, answer.json()["current"], head_of(api)) == (412, None, head)


@WRITES
@pytest.mark.parametrize("given", ["x", '"x', 'x"', '"a" "b"', "", '"a"b"', "w/x"])
def test_illformed_tag_is_400_and_names_the_header(
    sqlite_api: httpx2.Client, write: Write, given: str
) -> None:
    key, head = created(sqlite_api), head_of(sqlite_api)
    answer = write(sqlite_api, key, {"If-Match": given})
    assert (answer.status_code, code_of(answer), fields_of(answer)) == (400, "invalid-tag", ["If-Match"])
    assert head_of(sqlite_api) == head


@WRITES
def test_if_none_match_star_is_refused_where_the_route_exists(api: httpx2.Client, write: Write) -> None:
    key = deactivated(api)
    head = head_of(api)
    answer = write(api, key, {"If-None-Match": "*"})
    assert (answer.status_code, answer.json()["current"]["is_active"]) == (412, False)
    assert head_of(api) == head


@pytest.mark.parametrize("write", [_put, _create])
def test_if_none_match_star_lets_a_new_route_be_made(api: httpx2.Client, write: Write) -> None:
    assert write(api, a_fresh_key(), {"If-None-Match": "*"}).status_code == 201


@WRITES
def test_if_none_match_of_another_tag_lets_the_write_pass(api: httpx2.Client, write: Write) -> None:
    assert write(api, created(api), {"If-None-Match": '"x"'}).is_success


def test_both_preconditions_must_hold(api: httpx2.Client) -> None:
    key = created(api)
    tag = tag_of(api, key)
    answer = _put(api, key, {"If-Match": tag, "If-None-Match": tag})
    assert answer.status_code == 412


def test_precondition_is_checked_before_a_no_op_is_seen(api: httpx2.Client) -> None:
    key = created(api)
    answer = api.put(path_of(key), json={"url": URL}, headers={"If-Match": '"x"'})
    assert answer.status_code == 412


def test_of_20_writers_with_the_same_tag_exactly_one_wins(api: httpx2.Client) -> None:
    key = a_fresh_key()
    tag = create(api, key).headers["ETag"]

    def compare_and_swap(number: int) -> int:
        body = {"url": f"https://writer-{number}.example.com"}
        return api.put(path_of(key), json=body, headers={"If-Match": tag}).status_code

    with ThreadPoolExecutor(20) as callers:
        statuses = sorted(callers.map(compare_and_swap, range(20)))
    assert statuses == [200] + [412] * 19
    assert len(api.get(f"{path_of(key)}/history").json()["changes"]) == 2


def test_of_20_creators_of_different_urls_exactly_one_wins(api: httpx2.Client) -> None:
    key = a_fresh_key()

    def claim(number: int) -> int:
        body = {**key, "url": f"https://creator-{number}.example.com"}
        return api.post(ROUTES, json=body).status_code

    with ThreadPoolExecutor(20) as callers:
        assert sorted(callers.map(claim, range(20))) == [201] + [409] * 19
    assert len(api.get(f"{path_of(key)}/history").json()["changes"]) == 1
