"""Who made a change, from where, why: in every way that changes are told, and what they can be asked for by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.api.calls import BATCH, CHANGES, OTHER_URL, ROUTES, URL, a_fresh_key, code_of, created, fields_of
from tests.api.conftest import documented_client
from tests.node import Json, Node, path_of

WHY = "INC-42: höhere Last"
SAID = [(b"TM-Reason", WHY.encode())]


def _changes(api: httpx2.Client, tenant: str, **question: str) -> list[Json]:
    found: list[Json] = api.get(CHANGES, params={"tenant": tenant, **question}).json()["changes"]
    return found


def test_a_change_tells_who_made_it_whence_and_why(api: httpx2.Client) -> None:
    key = a_fresh_key()
    api.post(ROUTES, json={**key, "url": URL}, headers=SAID)
    api.put(path_of(key), json={"url": OTHER_URL}, headers=[*SAID, (b"If-Match", b"*")])
    api.post(BATCH, json={"operations": [{"operation": "deactivate", **key}]}, headers=SAID)
    api.delete(path_of(key))
    told = [(c["actor"], c["address"], c["reason"]) for c in _changes(api, key["tenant"])]
    assert told == [("anonymous", "127.0.0.1", WHY)] * 3 + [("anonymous", "127.0.0.1", None)]
    history = api.get(f"{path_of(key)}/history").json()["changes"]
    assert [c["reason"] for c in history] == [None, WHY, WHY, WHY]


def test_a_stream_tells_it_too(stack: Node, api: httpx2.Client) -> None:
    key = created(api)
    head = api.get(CHANGES, params={"limit": 1, "tenant": "nobody"}).json()["head"]
    api.post(f"{ROUTES}/deactivate", json=key, headers=SAID)
    question = {"tenant": key["tenant"], "after": head}
    with (
        stack.client() as reader,
        reader.stream("GET", f"{CHANGES}/stream", params=question) as stream,
    ):
        line = next(line for line in stream.iter_lines() if '"deactivated"' in line)
    assert '"address":"127.0.0.1","reason":"INC-42: h\u00f6here Last"' in line


def test_an_ill_formed_reason_is_400_and_names_the_header(sqlite_api: httpx2.Client) -> None:
    for bad in (
        b"",
        b"r" * 257,
        b"\xfc",
        b"a\tb",
        "\u2800".encode(),
        "\u3164, \u3164".encode(),
        "a\u202eb".encode(),
        "a\u200bb".encode(),
    ):
        for path in (ROUTES, f"{ROUTES}/activate"):
            body = {**a_fresh_key(), **({"url": URL} if path == ROUTES else {})}
            refused = sqlite_api.post(path, json=body, headers=[(b"TM-Reason", bad)])
            assert (refused.status_code, code_of(refused)) == (400, "invalid-reason"), bad
            assert fields_of(refused) == ["TM-Reason"]
    for nothing in ([b"", b""], [b","], [b",", b""]):
        headers = [(b"TM-Reason", value) for value in nothing]
        refused = sqlite_api.put(path_of(a_fresh_key()), json={"url": URL}, headers=headers)
        assert (refused.status_code, code_of(refused)) == (400, "invalid-reason"), nothing


def test_a_reason_of_any_script_is_taken(sqlite_api: httpx2.Client) -> None:
    key = a_fresh_key()
    reason = "\u8ca0\u8377" * 128
    sqlite_api.post(ROUTES, json={**key, "url": URL}, headers=[(b"TM-Reason", reason.encode())])
    assert [c["reason"] for c in _changes(sqlite_api, key["tenant"])] == [reason]


@pytest.fixture(scope="module")
def strict_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A server where the tenant `strict` wants reasons."""
    folder: Path = tmp_path_factory.mktemp("strict")
    with Node(folder, {"REASON_REQUIRED": "other,strict"}).start() as node, documented_client(node) as client:
        yield client


def test_a_tenant_that_wants_reasons_is_changed_with_one_only(strict_api: httpx2.Client) -> None:
    key = {**a_fresh_key(), "tenant": "strict"}
    batch = {
        "operations": [{"operation": "put", **a_fresh_key(), "url": URL}, {"operation": "delete", **key}]
    }
    for method, path, body in (
        ("POST", ROUTES, {**key, "url": URL}),
        ("PUT", path_of(key), {"url": OTHER_URL}),
        ("POST", f"{ROUTES}/deactivate", key),
        ("POST", BATCH, batch),
    ):
        refused = strict_api.request(method, path, json=body)
        assert (refused.status_code, code_of(refused)) == (400, "missing-reason")
        assert refused.json()["errors"][0].get("pointer") is None
        assert strict_api.request(method, path, json=body, headers=SAID).is_success
    assert strict_api.delete(path_of({**key, "service": "gone"})).status_code == 400
    assert len(_changes(strict_api, "strict")) == 4


def test_others_need_none_there(strict_api: httpx2.Client) -> None:
    assert created(strict_api)


def test_changes_are_found_by_action_actor_and_time(api: httpx2.Client) -> None:
    key = created(api)
    tenant = key["tenant"]
    for verb in ("deactivate", "activate", "deactivate"):
        api.post(f"{ROUTES}/{verb}", json=key)
    made = _changes(api, tenant)
    assert [c["action"] for c in _changes(api, tenant, action="deactivated")] == ["deactivated"] * 2
    assert _changes(api, tenant, actor="anonymous") == made
    assert _changes(api, tenant, actor="anonym") == []
    second, third = made[1]["occurred_at"], made[2]["occurred_at"]
    assert _changes(api, tenant, since=second, until=third) == [made[1]]
    assert _changes(api, tenant, since=third, action="activated") == [made[2]]
    assert _changes(api, tenant, since="2100-01-01T00:00:00+02:00") == []


@pytest.mark.parametrize(
    "question",
    [
        {"action": "made"},
        {"actor": "a\nb"},
        {"since": "2026-11-27"},
        {"since": "2026-13-27T00:00:00Z"},
        {"until": "2026-11-27T12:00:00"},
        {"until": "now"},
        {"wait": "1", "action": "created"},
    ],
)
def test_what_changes_cannot_be_asked_for_by_is_400(
    sqlite_api: httpx2.Client, question: dict[str, str]
) -> None:
    refused = sqlite_api.get(CHANGES, params=question)
    assert (refused.status_code, code_of(refused)) == (400, "invalid-parameter")
    assert fields_of(refused) == [next(iter(question))]
