"""Batches take effect as a whole or not at all, on every stack."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx2
import pytest

from tests.api.calls import (
    BATCH,
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
    tag_of,
)
from tests.node import Json, Node, path_of, resolve


def _operation(operation: str, key: Mapping[str, str], **fields: str | bool) -> Json:
    return {"operation": operation, **key, **fields}


def _batch(api: httpx2.Client, *operations: Json, **fields: bool) -> httpx2.Response:
    return api.post(BATCH, json={"operations": list(operations), **fields})


def test_each_operation_has_its_result_in_order(api: httpx2.Client) -> None:
    key, old = a_fresh_key(), created(api)
    answer = _batch(
        api,
        _operation("create", key, url=URL),
        _operation("put", key, url=OTHER_URL),
        _operation("deactivate", key),
        _operation("activate", key),
        _operation("delete", old),
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    found = [(r["operation"], r["status"], r["changed"], r["action"]) for r in results]
    assert found == [
        ("create", 201, True, "created"),
        ("put", 200, True, "updated"),
        ("deactivate", 200, True, "deactivated"),
        ("activate", 200, True, "activated"),
        ("delete", 204, True, "deleted"),
    ]
    assert [r["revision"] for r in results] == list(range(results[0]["revision"], results[0]["revision"] + 5))
    assert (results[3]["route"], results[4]["route"]) == (api.get(path_of(key)).json(), None)


def test_answer_tells_the_head_that_the_batch_made(api: httpx2.Client) -> None:
    answer = _batch(api, *(_operation("create", a_fresh_key(), url=URL) for _ in range(3)))
    head = head_of(api)
    assert (answer.headers["TM-Revision"], answer.json()["revision"]) == (head, revision_of(head))
    assert answer.json()["dry_run"] is False


def test_operation_sees_those_before_it(api: httpx2.Client) -> None:
    key = a_fresh_key()
    answer = _batch(
        api,
        _operation("create", key, url=URL),
        _operation("delete", key),
        _operation("put", key, url=OTHER_URL, is_active=False),
    )
    assert [r["status"] for r in answer.json()["results"]] == [201, 204, 201]
    route = api.get(path_of(key)).json()
    assert (route["url"], route["is_active"]) == (OTHER_URL, False)


def test_operations_that_change_nothing_write_nothing(api: httpx2.Client) -> None:
    key, head = created(api), head_of(api)
    made = api.get(path_of(key)).json()
    answer = _batch(api, _operation("create", key, url=URL), _operation("activate", key))
    results = answer.json()["results"]
    assert [(r["status"], r["changed"], r["action"], r["route"]) for r in results] == [
        (200, False, None, made)
    ] * 2
    assert [r["revision"] for r in results] == [made["revision"]] * 2
    assert (answer.headers["TM-Revision"], head_of(api)) == (head, head)


FAILURES = [
    ("conflict", 409, "route-conflict"),
    ("missing", 404, "route-not-found"),
    ("stale", 412, "precondition-failed"),
]


def _failing(api: httpx2.Client, kind: str) -> Json:
    key = created(api)
    return {
        "conflict": _operation("create", key, url=OTHER_URL),
        "missing": _operation("activate", a_fresh_key()),
        "stale": _operation("put", key, url=OTHER_URL, if_match='"x"'),
    }[kind]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("kind", "status", "code"), FAILURES)
def test_one_failing_operation_fails_all_with_its_status_and_index(
    api: httpx2.Client, kind: str, status: int, code: str, dry_run: bool
) -> None:
    new = a_fresh_key()
    failing, head = _failing(api, kind), head_of(api)
    answer = _batch(
        api, _operation("put", new, url=URL), failing, _operation("activate", new), dry_run=dry_run
    )
    assert (answer.status_code, code_of(answer), answer.json()["index"]) == (status, code, 1)
    assert (head_of(api), api.get(path_of(new)).status_code) == (head, 404)


@pytest.mark.parametrize(("kind", "status", "code"), FAILURES)
def test_failed_batch_tells_the_revision_it_was_decided_at(
    api: httpx2.Client, kind: str, status: int, code: str
) -> None:
    failing = _failing(api, kind)
    answer = _batch(api, failing)
    assert answer.headers["TM-Revision"] == head_of(api)


def test_conflict_shows_the_route_as_operations_before_it_left_it(api: httpx2.Client) -> None:
    key = a_fresh_key()
    answer = _batch(api, _operation("create", key, url=URL), _operation("create", key, url=OTHER_URL))
    assert (answer.status_code, answer.json()["index"], answer.json()["current"]["url"]) == (409, 1, URL)


@pytest.mark.parametrize(
    ("operation", "code", "field"),
    [
        ({"operation": "create"}, "missing", "url"),
        ({"operation": "put"}, "missing", "url"),
        ({"operation": "delete", "url": URL}, "unknown-field", "url"),
        ({"operation": "create", "url": URL, "is_active": True}, "unknown-field", "is_active"),
        ({"operation": "create", "url": "ftp://a.example.com"}, "url-scheme", "url"),
        ({"operation": "delete", "tenant": "a/b"}, "invalid-name", "tenant"),
        ({"operation": "delete", "if_match": "x"}, "invalid-tag", "if_match"),
        ({"operation": "remove"}, "invalid-value", "operation"),
        ({"operation": "delete", "reason": "x"}, "unknown-field", "reason"),
        ({"operation": "delete", "env": 1}, "wrong-type", "env"),
    ],
)
def test_illformed_operation_is_refused_with_its_index_and_field(
    sqlite_api: httpx2.Client, operation: Json, code: str, field: str
) -> None:
    head = head_of(sqlite_api)
    fine = _operation("put", a_fresh_key(), url=URL)
    answer = _batch(sqlite_api, fine, {**a_fresh_key(), **operation})
    assert answer.status_code in (400, 422)
    assert (answer.json()["index"], code_of(answer), fields_of(answer)) == (1, code, [field])
    assert answer.json()["errors"][0]["pointer"] == f"/operations/1/{field}"
    assert head_of(sqlite_api) == head


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"operations": []},
        {"operations": {}},
        {"operations": None},
        {"operations": [1]},
        {"dry_run": True},
    ],
)
def test_batch_without_operations_is_refused(sqlite_api: httpx2.Client, body: Json) -> None:
    answer = sqlite_api.post(BATCH, json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/operations")


def test_1000_operations_are_one_batch(api: httpx2.Client) -> None:
    key = a_fresh_key()
    operations = [_operation("create", {**key, "version": f"v{n}"}, url=URL) for n in range(1000)]
    head = head_of(api)
    answer = _batch(api, *operations)
    assert (answer.status_code, len(answer.json()["results"])) == (200, 1000)
    assert head_of(api) == after(head, 1000)


def test_1001_operations_are_refused(api: httpx2.Client) -> None:
    head = head_of(api)
    answer = _batch(api, *(_operation("delete", a_fresh_key()) for _ in range(1001)))
    assert (answer.status_code, code_of(answer), head_of(api)) == (422, "too-many", head)


def test_if_match_holds_against_the_state_before_the_batch(api: httpx2.Client) -> None:
    key = created(api)
    answer = _batch(api, _operation("put", key, url=OTHER_URL, if_match=tag_of(api, key)))
    assert answer.status_code == 200


def test_if_match_fails_once_an_earlier_operation_changed_the_route(api: httpx2.Client) -> None:
    key = created(api)
    tag = tag_of(api, key)
    answer = _batch(api, _operation("put", key, url=OTHER_URL), _operation("deactivate", key, if_match=tag))
    assert (answer.status_code, answer.json()["index"]) == (412, 1)


@pytest.mark.parametrize("given", ["weak", "other history"])
def test_if_match_takes_no_weak_tag_and_none_of_another_history(api: httpx2.Client, given: str) -> None:
    key = created(api)
    tag = tag_of(api, key)
    wrong = f"W/{tag}" if given == "weak" else f'"{of_other_history(tag.strip(chr(34)))}"'
    assert _batch(api, _operation("delete", key, if_match=wrong)).status_code == 412


def test_if_match_star_asks_for_a_route_of_any_state(api: httpx2.Client) -> None:
    fine = _batch(api, _operation("deactivate", created(api), if_match="*"))
    missing = _batch(api, _operation("put", a_fresh_key(), url=URL, if_match="*"))
    assert (fine.status_code, missing.status_code) == (200, 412)


def test_dry_run_says_what_would_happen_and_writes_nothing(api: httpx2.Client) -> None:
    new, old = a_fresh_key(), created(api)
    head = head_of(api)
    operations = (
        _operation("create", new, url=URL),
        _operation("put", old, url=URL),
        _operation("delete", old),
    )
    told = _batch(api, *operations, dry_run=True)
    assert (told.status_code, told.json()["dry_run"]) == (200, True)
    assert (told.headers["TM-Revision"], head_of(api)) == (head, head)
    assert (api.get(path_of(new)).status_code, api.get(path_of(old)).status_code) == (404, 200)
    done = _batch(api, *operations)
    parts = ("operation", "status", "changed", "action", "revision")
    assert [[r[p] for p in parts] for r in told.json()["results"]] == [
        [r[p] for p in parts] for r in done.json()["results"]
    ]


def test_changes_of_a_batch_follow_each_other_in_the_log(api: httpx2.Client) -> None:
    key, head = a_fresh_key(), head_of(api)
    _batch(api, *(_operation("create", {**key, "version": f"v{n}"}, url=URL) for n in range(5)))
    found = api.get(CHANGES, params={"after": head}).json()["changes"]
    assert [change["version"] for change in found] == ["v0", "v1", "v2", "v3", "v4"]
    assert {b["revision"] - a["revision"] for a, b in pairwise(found)} == {1}


def test_readers_see_all_of_a_batch_or_nothing(stack: Node, api: httpx2.Client) -> None:
    """Resolves the last route first: if it has the new URL, the first one must have it too."""
    key = a_fresh_key()
    keys = [{**key, "version": f"v{n}"} for n in range(50)]
    _batch(api, *(_operation("create", k, url="https://s.example.com/0") for k in keys))
    is_over = False

    def torn() -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        with stack.client() as client:
            while not is_over:
                last, first = (resolve(client, k).json()["url"] for k in (keys[-1], keys[0]))
                found.append((int(last.rpartition("/")[2]), int(first.rpartition("/")[2])))
        return found

    with ThreadPoolExecutor(2) as readers:
        seen = [readers.submit(torn) for _ in range(2)]
        for number in range(1, 16):
            put = [_operation("put", k, url=f"https://s.example.com/{number}") for k in keys]
            assert _batch(api, *put).status_code == 200
        is_over = True
    pairs = [pair for future in seen for pair in future.result()]
    assert pairs
    # Both workers follow on their own, so only a reader that stays with one connection may compare.
    assert [pair for pair in pairs if pair[0] > pair[1]] == []


def test_list_read_while_batches_come_never_shows_half_of_one(stack: Node, api: httpx2.Client) -> None:
    key = a_fresh_key()
    keys = [{**key, "version": f"v{n}"} for n in range(20)]
    _batch(api, *(_operation("create", k, url="https://l.example.com/0") for k in keys))
    pages: list[int] = []
    is_over = False

    def count_urls_per_page() -> None:
        with stack.client() as client:
            while not is_over:
                routes = client.get(ROUTES, params={"tenant": key["tenant"]}).json()["routes"]
                pages.append(len({route["url"] for route in routes}))

    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(count_urls_per_page)
        number = 0
        while not reading.done() and (number < 15 or len(pages) < 10):
            number += 1
            _batch(api, *(_operation("put", k, url=f"https://l.example.com/{number}") for k in keys))
        is_over = True
    reading.result()
    assert set(pages) == {1}


def test_rehearsed_route_shows_todays_times(api: httpx2.Client) -> None:
    operation = {**a_fresh_key(), "operation": "create", "url": URL}
    answer = api.post(BATCH, json={"dry_run": True, "operations": [operation]})
    assert answer.json()["results"][0]["route"]["created_at"] > "2026"
