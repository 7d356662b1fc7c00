"""Lists of routes and histories: filters, keyset pages and their tokens, on every stack."""

from __future__ import annotations

import base64
import json
import string

import httpx2
import pytest

from tests.api.calls import (
    BATCH,
    OTHER_URL,
    ROUTES,
    URL,
    a_fresh_key,
    code_of,
    created,
    fields_of,
    head_of,
    pages,
)
from tests.node import Json, path_of


def _many(api: httpx2.Client, services: list[str]) -> str:
    """Create a route for each of *services*; return their tenant."""
    key = a_fresh_key()
    operations = [{**key, "operation": "create", "service": service, "url": URL} for service in services]
    assert api.post(BATCH, json={"operations": operations}).status_code == 200
    return key["tenant"]


def _services(found: list[Json]) -> list[str]:
    return [route["service"] for route in found]


def test_routes_are_listed_in_byte_order_of_their_names(api: httpx2.Client) -> None:
    tenant = _many(api, ["b", "a", "Z", "a-1", "a1", "a.b", "a~b", "A", "10", "9"])
    found = api.get(ROUTES, params={"tenant": tenant}).json()
    assert _services(found["routes"]) == ["10", "9", "A", "Z", "a", "a-1", "a.b", "a1", "a~b", "b"]
    assert found["next_page_token"] is None


def test_listed_route_is_the_route(api: httpx2.Client) -> None:
    key = created(api)
    answer = api.get(ROUTES, params=key)
    assert answer.json()["routes"] == [api.get(path_of(key)).json()]
    assert answer.headers["TM-Revision"] == head_of(api)
    assert answer.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("name", ["service", "env", "version"])
def test_each_name_filters(api: httpx2.Client, name: str) -> None:
    key = created(api)
    other = {**key, name: "other"}
    api.put(path_of(other), json={"url": URL})
    found = api.get(ROUTES, params={"tenant": key["tenant"], name: "other"}).json()["routes"]
    assert [{part: route[part] for part in key} for route in found] == [other]


@pytest.mark.parametrize(("given", "expected"), [("true", ["a"]), ("false", ["b"])])
def test_state_filters(api: httpx2.Client, given: str, expected: list[str]) -> None:
    tenant = _many(api, ["a", "b"])
    key = api.get(ROUTES, params={"tenant": tenant}).json()["routes"][1]
    api.post(
        f"{ROUTES}/deactivate", json={part: key[part] for part in ("tenant", "service", "env", "version")}
    )
    found = api.get(ROUTES, params={"tenant": tenant, "is_active": given}).json()["routes"]
    assert _services(found) == expected


def test_filter_that_matches_nothing_is_an_empty_page(api: httpx2.Client) -> None:
    answer = api.get(ROUTES, params={"tenant": "nobody"})
    assert answer.json() == {"routes": [], "next_page_token": None}


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 500])
def test_pages_of_any_size_join_to_the_whole(api: httpx2.Client, size: int) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    tenant = _many(api, names)
    found = pages(api, ROUTES, "routes", tenant=tenant, page_size=size)
    assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)
    assert _services([route for page in found for route in page]) == names


def test_pages_hold_what_stays_exactly_once_while_others_come_and_go(api: httpx2.Client) -> None:
    tenant = _many(api, ["b", "d", "f", "h"])
    key = {**a_fresh_key(), "tenant": tenant}
    first = api.get(ROUTES, params={"tenant": tenant, "page_size": 2}).json()
    for come in ("a", "e"):
        api.put(path_of({**key, "service": come}), json={"url": URL})
    for go in ("b", "d", "f"):
        api.delete(path_of({**key, "service": go}))
    rest = api.get(ROUTES, params={"tenant": tenant, "page_token": first["next_page_token"]}).json()
    assert (_services(first["routes"]), _services(rest["routes"])) == (["b", "d"], ["e", "h"])


def test_history_pages_join_to_the_whole_while_changes_come(api: httpx2.Client) -> None:
    key = created(api)
    for number in range(4):
        api.put(path_of(key), json={"url": f"{OTHER_URL}/{number}"})
    path = f"{path_of(key)}/history"
    whole = api.get(path).json()["changes"]
    first = api.get(path, params={"page_size": 2}).json()
    api.delete(path_of(key))
    second = api.get(path, params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    third = api.get(path, params={"page_size": 2, "page_token": second["next_page_token"]}).json()
    assert first["changes"] + second["changes"] + third["changes"] == whole
    assert third["next_page_token"] is None


def _token(api: httpx2.Client) -> tuple[str, str]:
    tenant = _many(api, ["a", "b", "c"])
    answer = api.get(ROUTES, params={"tenant": tenant, "page_size": 1}).json()
    return tenant, answer["next_page_token"]


def test_page_token_is_made_of_harmless_characters(api: httpx2.Client) -> None:
    assert set(_token(api)[1]) <= set(string.ascii_letters + string.digits + "-_")


def test_page_size_may_change_between_pages(api: httpx2.Client) -> None:
    tenant, token = _token(api)
    page = api.get(ROUTES, params={"tenant": tenant, "page_token": token, "page_size": 500})
    assert _services(page.json()["routes"]) == ["b", "c"]


@pytest.mark.parametrize(
    "question",
    [{}, {"tenant": "nobody"}, {"service": "a"}, {"env": "prod"}, {"version": "v2"}, {"is_active": "true"}],
)
def test_page_token_of_another_question_is_refused(api: httpx2.Client, question: dict[str, str]) -> None:
    tenant, token = _token(api)
    asked = {"tenant": tenant, **question} if question else {}
    answer = api.get(ROUTES, params={**asked, "page_token": token})
    assert (answer.status_code, code_of(answer)) == (400, "invalid-page-token")
    assert fields_of(answer) == ["page_token"]


def test_page_token_of_another_routes_history_is_refused(api: httpx2.Client) -> None:
    key = created(api)
    api.put(path_of(key), json={"url": OTHER_URL})
    token = api.get(f"{path_of(key)}/history", params={"page_size": 1}).json()["next_page_token"]
    other = f"{path_of({**key, 'version': 'v9'})}/history"
    assert api.get(other, params={"page_token": token}).status_code == 400


def test_page_token_with_any_character_changed_is_refused(sqlite_api: httpx2.Client) -> None:
    tenant, token = _token(sqlite_api)
    for index, character in enumerate(token):
        tampered = token[:index] + ("A" if character != "A" else "B") + token[index + 1 :]
        answer = sqlite_api.get(ROUTES, params={"tenant": tenant, "page_token": tampered})
        assert (answer.status_code, fields_of(answer)) == (400, ["page_token"]), f"character {index}"


def test_page_token_with_unused_bits_set_is_refused(sqlite_api: httpx2.Client) -> None:
    tenant, token = _token(sqlite_api)
    for last in string.ascii_letters + string.digits + "-_":
        if last != token[-1]:
            params = {"tenant": tenant, "page_token": token[:-1] + last}
            assert sqlite_api.get(ROUTES, params=params).status_code == 400


@pytest.mark.parametrize("token", ["", "x", "====", "W10", "bnVsbA", "é", "A" * 3000, "a b", "%00"])
def test_nonsense_for_a_page_token_is_refused(sqlite_api: httpx2.Client, token: str) -> None:
    for path in (ROUTES, f"{path_of(a_fresh_key())}/history"):
        answer = sqlite_api.get(path, params={"page_token": token})
        assert (answer.status_code, fields_of(answer)) == (400, ["page_token"])


@pytest.mark.parametrize(
    "place",
    [None, 7, "x", [], ["a", "b", "c", 4], [[["deep"] * 3] * 3] * 3, {"tenant": "a"}, 2**70],
    ids=["null", "number", "text", "empty", "number among names", "nested", "object", "huge"],
)
@pytest.mark.parametrize("path", [ROUTES, "history"])
def test_made_up_page_token_is_refused_whatever_it_holds(
    api: httpx2.Client, path: str, place: object
) -> None:
    path = f"{path_of(a_fresh_key())}/history" if path == "history" else path
    made_up = base64.urlsafe_b64encode(json.dumps(["0" * 8, place]).encode()).decode().rstrip("=")
    answer = api.get(path, params={"page_token": made_up})
    assert (answer.status_code, code_of(answer)) == (400, "invalid-page-token")


def test_deeply_nested_page_token_is_refused(api: httpx2.Client) -> None:
    document = f'["x",{"[" * 400}{"]" * 400}]'.encode()
    token = base64.urlsafe_b64encode(document).decode().rstrip("=")
    answer = api.get(ROUTES, params={"page_token": token})
    assert (answer.status_code, code_of(answer)) == (400, "invalid-page-token")
