"""Short ways to say what the tests of the API do again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import httpx2

from tests.node import Json, a_key, path_of

ROUTES = "/api/v1/routes"
CHANGES = "/api/v1/changes"
BATCH = "/api/v1/routes/batch"
URL = "https://payments.example.com/v2"
OTHER_URL = "https://payments.example.com/v3"

_numbers = count(1)


def a_fresh_key(**names: str) -> dict[str, str]:
    """Return a key that no other test of this process has."""
    return a_key(**{"tenant": f"tenant-{next(_numbers)}", **names})


def create(api: httpx2.Client, key: Mapping[str, str], url: str = URL) -> httpx2.Response:
    """Create the route; it must be new."""
    response = api.post(ROUTES, json={**key, "url": url})
    assert response.status_code == 201, response.text
    return response


def created(api: httpx2.Client, **names: str) -> dict[str, str]:
    """Return the key of a new route."""
    key = a_fresh_key(**names)
    create(api, key)
    return key


def deactivated(api: httpx2.Client) -> dict[str, str]:
    """Return the key of a new inactive route."""
    key = created(api)
    assert api.post(f"{ROUTES}/deactivate", json=key).status_code == 200
    return key


def head_of(api: httpx2.Client) -> str:
    """Return the position of the newest change."""
    head: str = api.get(CHANGES, params={"limit": 1, "tenant": "nobody"}).json()["head"]
    return head


def revision_of(position: str) -> int:
    """Return the revision of a token or tag."""
    return int(position.strip('"').partition(".")[2])


def tag_of(api: httpx2.Client, key: Mapping[str, str]) -> str:
    """Return the ETag of a route."""
    return str(api.get(path_of(key)).headers["ETag"])


def after(position: str, by: int) -> str:
    """Return the position *by* revisions later."""
    epoch8, _, revision = position.partition(".")
    return f"{epoch8}.{int(revision) + by}"


def of_other_history(position: str) -> str:
    """Return the same revision of a history that is not this one."""
    epoch8, _, revision = position.partition(".")
    return f"{'0' * 8 if epoch8 != '0' * 8 else '1' * 8}.{revision}"


def code_of(response: httpx2.Response) -> str:
    """Return the code of a problem."""
    assert response.headers["Content-Type"] == "application/problem+json"
    return str(response.json()["type"]).removeprefix("urn:traffic-manager:")


def fields_of(response: httpx2.Response) -> list[str]:
    """Return the names of the fields that a problem blames."""
    return [error["field"] for error in response.json().get("errors", [])]


def pages(api: httpx2.Client, path: str, part: str, **question: str | int | bool) -> list[list[Json]]:
    """Return all pages of a list, each as its items."""
    found: list[list[Json]] = []
    token: Sequence[tuple[str, str]] = []
    while True:
        page = api.get(path, params=[*((n, str(v)) for n, v in question.items()), *token]).json()
        found.append(page[part])
        if page["next_page_token"] is None:
            return found
        token = [("page_token", page["next_page_token"])]
