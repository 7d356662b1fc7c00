"""Many keys are resolved at one revision, each as it would be alone, on every stack."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import httpx2
import pytest

from tests.api.calls import (
    BATCH,
    OTHER_URL,
    ROUTES,
    URL,
    a_fresh_key,
    after,
    code_of,
    create,
    created,
    deactivated,
    fields_of,
    head_of,
    of_other_history,
    revision_of,
)
from tests.monitoring.exposition import values
from tests.node import Node, path_of, resolve

RESOLVE = f"{ROUTES}/resolve"


def _resolve(api: httpx2.Client, *keys: Mapping[str, str], **headers: str) -> httpx2.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.post(RESOLVE, json={"keys": list(keys)}, headers=given)


def _urls(answer: httpx2.Response) -> list[str | None]:
    assert answer.status_code == 200, answer.text
    return [result["url"] for result in answer.json()["results"]]


def test_each_key_has_its_result_in_the_order_asked_for(api: httpx2.Client) -> None:
    here, gone, off, there = created(api), a_fresh_key(), deactivated(api), created(api)
    asked = [there, gone, here, off, there]
    answer = _resolve(api, *asked, tm_min_revision=head_of(api))
    results = answer.json()["results"]
    assert [{name: r[name] for name in here} for r in results] == asked
    assert [r["status"] for r in results] == [200, 404, 200, 404, 200]
    assert [r["url"] for r in results] == [URL, None, URL, None, URL]
    assert [r["code"] for r in results] == [None, "route-not-found", None, "route-not-found", None]


def test_result_is_what_a_single_resolve_answers(api: httpx2.Client) -> None:
    key = created(api)
    token = head_of(api)
    (result,) = _resolve(api, key, tm_min_revision=token).json()["results"]
    assert result == {**resolve(api, key, tm_min_revision=token).json(), "status": 200, "code": None}
    missing = resolve(api, a_fresh_key(), tm_min_revision=token)
    assert (missing.status_code, code_of(missing)) == (404, "route-not-found")


def test_answer_names_the_one_revision_that_it_is_true_at(api: httpx2.Client) -> None:
    keys = [created(api) for _ in range(3)]
    answer = _resolve(api, *keys, tm_min_revision=head_of(api))
    assert answer.json()["as_of"] == answer.headers["TM-Revision"]
    assert revision_of(answer.json()["as_of"]) >= max(r["revision"] for r in answer.json()["results"])
    assert answer.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("header", ["tm_min_revision", "cache_control"])
def test_write_is_read_back_at_once_by_token_and_by_no_cache(api: httpx2.Client, header: str) -> None:
    key = created(api)
    for number in range(10):
        url = f"https://payments.example.com/{number}"
        token = api.put(path_of(key), json={"url": url}).headers["TM-Revision"]
        answer = _resolve(api, a_fresh_key(), key, **{header: token if "tm" in header else "no-cache"})
        assert _urls(answer) == [None, url]
        assert revision_of(answer.headers["TM-Revision"]) >= revision_of(token)


def test_revision_that_does_not_exist_or_is_of_another_history_is_refused(api: httpx2.Client) -> None:
    head = head_of(api)
    future = _resolve(api, created(api), tm_min_revision=after(head, 1_000_000))
    other = _resolve(api, created(api), tm_min_revision=of_other_history(head))
    assert (future.status_code, code_of(future)) == (503, "not-yet-reached")
    assert (other.status_code, code_of(other)) == (412, "epoch-mismatch")


def test_thousand_keys_are_answered_and_one_more_refused(api: httpx2.Client) -> None:
    tenant = a_fresh_key()["tenant"]
    keys = [a_fresh_key(tenant=tenant, service=f"s{n}") for n in range(1001)]
    operations = [{"operation": "create", **key, "url": f"{URL}/{n}"} for n, key in enumerate(keys[:1000])]
    token = api.post(BATCH, json={"operations": operations}).headers["TM-Revision"]
    answer = _resolve(api, *keys[:1000], tm_min_revision=token)
    assert _urls(answer) == [f"{URL}/{n}" for n in range(1000)]
    too_many = _resolve(api, *keys)
    assert (too_many.status_code, code_of(too_many), fields_of(too_many)) == (422, "too-many", ["keys"])


def test_batch_that_changes_all_routes_is_seen_whole_or_not_at_all(api: httpx2.Client) -> None:
    keys = [created(api) for _ in range(20)]
    stop = threading.Event()

    def rewrite() -> None:
        with httpx2.Client(base_url=api.base_url, timeout=10.0) as writer:
            number = 0
            while not stop.is_set():
                number += 1
                puts = [{"operation": "put", **key, "url": f"{URL}/{number}"} for key in keys]
                assert writer.post(BATCH, json={"operations": puts}).status_code == 200

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        seen: list[str] = []
        highest = 0
        # As long as it takes until the routes have changed: a busy machine may give the writer few turns.
        for number in takewhile(lambda n: n < 150 or len(set(seen)) <= 10, range(10_000)):
            answer = _resolve(api, *keys, **({"cache_control": "no-cache"} if number % 3 == 0 else {}))
            (url,) = set(_urls(answer))
            assert url is not None
            seen.append(url)
            results = answer.json()["results"]
            assert len({r["revision"] for r in results}) == len(keys)
            highest = max(highest, *(r["revision"] for r in results))
    finally:
        stop.set()
        thread.join()
    assert len(set(seen)) > 10, "the routes did not change meanwhile"
    assert highest > 0


def test_plain_answers_do_not_go_back_behind_strong_ones(cache_aside_stack: Node) -> None:
    with cache_aside_stack.client() as api:
        keys = [created(api) for _ in range(3)]
        for number in range(20):
            api.put(path_of(keys[1]), json={"url": f"{URL}/{number}"})
            strong = _urls(_resolve(api, *keys, cache_control="no-cache"))
            assert _urls(_resolve(api, *keys)) == strong
            assert resolve(api, keys[1]).json()["url"] == strong[1]


def _count_of(node: Node, name: str) -> float:
    return values(httpx2.get(f"{node.url}/metrics").content)[name]


def test_keys_are_counted_each_and_their_time_once(sqlite_stack: Node) -> None:
    with sqlite_stack.client() as api:
        keys = [created(api), created(api), a_fresh_key()]
        names = [
            "resolve_requests_total",
            "resolve_cache_hit_total",
            "resolve_cache_miss_total",
            "resolve_negative_cache_hit_total",
            "resolve_latency_seconds_count",
        ]
        before = [_count_of(sqlite_stack, name) for name in names]
        _resolve(api, *keys)
        _resolve(api, *keys, cache_control="no-cache")
        gained = [_count_of(sqlite_stack, name) - was for name, was in zip(names, before, strict=True)]
    assert gained == [6, 2, 3, 1, 0]


def _post(api: httpx2.Client, content: bytes | str, **headers: str) -> httpx2.Response:
    given = {"Content-Type": "application/json"} | headers
    return api.post(RESOLVE, content=content, headers=given)


GOOD = {"tenant": "team-a", "service": "payments", "env": "prod", "version": "v2"}

REFUSED: list[tuple[Any, int, str, list[str]]] = [
    ({}, 422, "missing", ["/keys"]),
    ({"keys": []}, 422, "too-few", ["/keys"]),
    ({"keys": None}, 422, "wrong-type", ["/keys"]),
    ({"keys": "team-a/payments/prod/v2"}, 422, "wrong-type", ["/keys"]),
    ({"keys": {"0": GOOD}}, 422, "wrong-type", ["/keys"]),
    ({"keys": [GOOD], "more": 1}, 422, "unknown-field", ["/more"]),
    ({"keys": [GOOD, "team-a/payments/prod/v2"]}, 422, "wrong-type", ["/keys/1"]),
    ({"keys": [GOOD, {**GOOD, "url": "https://x.example"}]}, 422, "unknown-field", ["/keys/1/url"]),
    ({"keys": [GOOD, GOOD, {**GOOD, "env": 7}]}, 422, "wrong-type", ["/keys/2/env"]),
    ({"keys": [GOOD, {"tenant": "a", "service": "b", "env": "c"}]}, 422, "missing", ["/keys/1/version"]),
    ({"keys": [GOOD, {**GOOD, "env": ""}]}, 400, "invalid-name", ["/keys/1/env"]),
    (
        {"keys": [{**GOOD, "env": "a/b", "version": "é"}]},
        400,
        "invalid-name",
        ["/keys/0/env", "/keys/0/version"],
    ),
    ({"keys": [GOOD] * 60 + [{**GOOD, "tenant": "x" * 129}]}, 400, "invalid-name", ["/keys/60/tenant"]),
]


@pytest.mark.parametrize(("body", "status", "code", "pointers"), REFUSED)
def test_ill_formed_request_is_refused_and_says_where(
    sqlite_api: httpx2.Client, body: Any, status: int, code: str, pointers: Sequence[str]
) -> None:
    answer = _post(sqlite_api, json.dumps(body))
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers


def test_only_the_first_of_many_ill_formed_names_are_told(sqlite_api: httpx2.Client) -> None:
    answer = _resolve(sqlite_api, *[{**GOOD, "env": "<script>"}] * 1000)
    assert answer.status_code == 400
    assert len(answer.json()["errors"]) == 32
    assert "script" not in answer.text


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed-json"),
        (b"[]", 400, "malformed-json"),
        (b'{"keys": [NaN]}', 400, "number-out-of-range"),
        (b'{"keys": [], "keys": []}', 400, "duplicate-key"),
        (b'{"keys": [{"tenant": "a", "tenant": "b"}]}', 400, "duplicate-key"),
        (b'{"keys": [{"tenant": "\\u0000"}]}', 400, "malformed-json"),
        (b'{"keys": [{"tenant": "\\ud800"}]}', 400, "malformed-json"),
        (b'{"keys": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested-too-deep"),
        (b'{"keys": ["' + b"x" * 2**20 + b'"]}', 413, "body-too-large"),
    ],
)
def test_hostile_body_is_refused(sqlite_api: httpx2.Client, content: bytes, status: int, code: str) -> None:
    answer = _post(sqlite_api, content)
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_longest_names_fit_into_the_largest_body(sqlite_api: httpx2.Client) -> None:
    keys = [dict.fromkeys(GOOD, f"{n:x>128}") for n in range(1000)]
    answer = _resolve(sqlite_api, *keys)
    assert _urls(answer) == [None] * 1000


def test_only_plain_json_is_read_and_no_parameter_is_known(sqlite_api: httpx2.Client) -> None:
    body = json.dumps({"keys": [GOOD]})
    assert _post(sqlite_api, body, **{"Content-Type": "text/plain"}).status_code == 415
    assert _post(sqlite_api, body, **{"Content-Encoding": "gzip"}).status_code == 415
    asked = sqlite_api.post(f"{RESOLVE}?tenant=a", json={"keys": [GOOD]})
    assert (asked.status_code, code_of(asked)) == (400, "unknown-parameter")


def test_other_methods_are_told_both_ways_to_resolve(sqlite_api: httpx2.Client) -> None:
    answer = sqlite_api.put(RESOLVE, json={})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_overwritten_route_is_answered_anew(api: httpx2.Client) -> None:
    key = created(api)
    assert _urls(_resolve(api, key, tm_min_revision=head_of(api))) == [URL]
    token = api.put(path_of(key), json={"url": OTHER_URL}).headers["TM-Revision"]
    assert _urls(_resolve(api, key, tm_min_revision=token)) == [OTHER_URL]
    token = api.delete(path_of(key)).headers["TM-Revision"]
    assert _urls(_resolve(api, key, tm_min_revision=token)) == [None]
    create(api, key)
    assert _urls(_resolve(api, key, tm_min_revision=head_of(api))) == [URL]
