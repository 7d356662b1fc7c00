"""Limits over HTTP: what is refused, how it is told, and that both ways in refuse alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection

import httpx2
import pytest

from tests.access.issue import REQUIRED, a_key_for, an_admin, bearer
from tests.api.calls import CHANGES, ROUTES, URL, code_of
from tests.api.twins import a_limiter, comparable, the_twins
from tests.node import Json, Node, a_key, path_of, wait_until
from tests.promises.places import a_node
from tests.servers.ports import HOST
from traffic_manager.routing.ports import Limit

LIMITS = "/api/v1/limits"
# With a limit of none all are refused: of one a second a slow machine might never ask too many.
NEVER_S = "3600"
# As many requests as no machine can make in a second.
MANY = 1_000_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks everybody for a key, believes 127.0.0.2, and takes few wrong keys."""
    settings = {**REQUIRED, "LIMIT_FAILED_SIGN_INS": "3", "API_TRUSTED_PROXIES": "127.0.0.2/32"}
    with a_node(tmp_path_factory.mktemp("limits"), settings) as started:
        yield started.start()


@pytest.fixture(scope="module")
def admin(node: Node) -> Iterator[httpx2.Client]:
    """Somebody who may do everything."""
    with an_admin(node) as client:
        yield client


def set_limit(client: httpx2.Client, name: str, subject: str = "tenant", **figures: int) -> Json:
    """Set a limit; it holds when this returns, for there is one worker."""
    answer = client.put(f"{LIMITS}/{subject}/{name}", json=figures)
    assert answer.status_code == 200, answer.text
    document: Json = answer.json()
    return document


def forbid(client: httpx2.Client, tenant: str) -> None:
    """Permit a tenant nothing."""
    set_limit(client, tenant, resolves=0, writes=0, lists=0)


def test_a_limit_is_set_listed_and_removed(admin: httpx2.Client) -> None:
    set_limit(admin, "listed", writes=5)
    shown = {"subject": "tenant", "name": "listed", "resolves": None, "writes": 5, "lists": None}
    shown |= {"routes": None, "keys": None}
    assert shown in admin.get(LIMITS).json()["limits"]
    set_limit(admin, "listed")
    assert "listed" not in admin.get(LIMITS).text


def test_limits_come_in_pages(admin: httpx2.Client) -> None:
    for number in range(3):
        set_limit(admin, f"paged-{number}", writes=5)
    found, token = [], ""
    while token is not None:
        question = {"page_size": "1"} | ({"page_token": token} if token else {})
        page = admin.get(LIMITS, params=question).json()
        found += [limit["name"] for limit in page["limits"]]
        token = page["next_page_token"]
    assert [name for name in found if name.startswith("paged")] == ["paged-0", "paged-1", "paged-2"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("tenant/team-a", {"writes": -1}, 422, "invalid-value"),
        ("tenant/team-a", {"writes": 1.5}, 422, "wrong-type"),
        ("tenant/team-a", {"writes": "5"}, 422, "wrong-type"),
        ("tenant/team-a", {"writes": True}, 422, "wrong-type"),
        ("tenant/team-a", {"writes": 10**10}, 422, "invalid-value"),
        ("tenant/team-a", {"write": 5}, 422, "unknown-field"),
        ("service/team-a", {}, 400, "invalid-parameter"),
        ("tenant/-team", {}, 400, "invalid-name"),
    ],
)
def test_what_is_no_limit_is_refused_and_named(
    admin: httpx2.Client, path: str, body: dict[str, object], status: int, code: str
) -> None:
    answer = admin.put(f"{LIMITS}/{path}", json=body)
    assert (answer.status_code, code_of(answer)) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("GET", f"{ROUTES}/resolve?tenant={{0}}&service=payments&env=prod&version=v2", None, "resolves"),
        ("POST", f"{ROUTES}/resolve", {"keys": [{}]}, "resolves"),
        ("GET", f"{ROUTES}?tenant={{0}}", None, "lists"),
        ("GET", f"{ROUTES}/{{0}}/payments/prod/v2", None, "lists"),
        ("GET", f"{ROUTES}/{{0}}/payments/prod/v2/history", None, "lists"),
        ("GET", f"{CHANGES}?tenant={{0}}", None, "lists"),
        ("PUT", f"{ROUTES}/{{0}}/payments/prod/v2", {"url": URL}, "writes"),
        ("POST", f"{ROUTES}/activate", {}, "writes"),
        ("DELETE", f"{ROUTES}/{{0}}/payments/prod/v2", None, "writes"),
        ("POST", f"{ROUTES}/batch", {"operations": [{"operation": "put", "url": URL}]}, "writes"),
    ],
)
def test_beyond_its_limit_a_tenant_is_told_what_it_may_and_when_to_come_back(
    admin: httpx2.Client, method: str, path: str, body: Json | None, kind: str
) -> None:
    tenant = f"limited-{method}-{kind}"
    forbid(admin, tenant)
    answer = admin.request(method, path.format(tenant), json=_of_tenant(body, tenant))
    policy = f"tenant-{kind}"
    assert (answer.status_code, answer.json()["type"]) == (429, "urn:traffic-manager:rate-limited")
    assert answer.headers["ratelimit-policy"] == f'"{policy}";q=0;w=1'
    assert answer.headers["ratelimit"] == f'"{policy}";r=0;t={NEVER_S}'
    assert answer.headers["retry-after"] == answer.headers["x-ratelimit-reset"] == NEVER_S
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("0", "0")


def _of_tenant(body: Json | None, tenant: str) -> Json | None:
    """Return *body* with the names of a route of *tenant* wherever it needs them."""
    if body is None or body.keys() == {"url"}:
        return body
    names = a_key(tenant=tenant)
    for part in ("keys", "operations"):
        if part in body:
            return {part: [{**names, **item} for item in body[part]]}
    return {**names, **body}


def test_other_tenants_are_answered_while_one_is_refused(admin: httpx2.Client) -> None:
    forbid(admin, "noisy")
    statuses = [admin.get(f"{ROUTES}?tenant={name}").status_code for name in ("noisy", "quiet") * 5]
    assert statuses == [429, 200] * 5


@pytest.fixture
def caller(node: Node) -> Iterator[Callable[[str, str], httpx2.Client]]:
    """Makes callers: `caller("viewer:team-a/*", "alice")` has a key of that owner."""
    with ExitStack() as open_clients:

        def made(grant: str, owner: str) -> httpx2.Client:
            client = open_clients.enter_context(node.client())
            client.headers.update(bearer(a_key_for(node, grant, owner=owner)))
            wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
            return client

        yield made


def test_a_principal_s_limit_holds_for_each_of_its_keys(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client]
) -> None:
    clients = [caller("viewer:*/*", "busy") for _ in range(2)]
    set_limit(admin, "busy", "principal", lists=0)
    for client in clients:
        assert client.get(ROUTES).headers["ratelimit-policy"] == '"principal-lists";q=0;w=1'
    assert admin.get(ROUTES).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/api/v1/whoami", "/api/v1/mirror", "/metrics", "/openapi.json", "/docs", "/docs/assets/swagger-ui.css"],
)
def test_no_call_but_those_of_health_is_under_no_limit(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client], path: str
) -> None:
    owner = f"reader-of-{path.strip('/').replace('/', '-')}"
    client = caller("viewer:*/*", owner)
    assert client.get(path).status_code == 200
    # More than what a machine, however slow, gets of it until it asks again.
    set_limit(admin, owner, "principal", lists=1)
    assert 429 in (client.get(path).status_code for _ in range(MANY))
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("last", [{"tenant": "foreign"}, {"version": "-"}, {"url": ""}, {"operation": "x"}])
def test_a_batch_that_is_refused_costs_its_caller_what_was_looked_at(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client], last: Json
) -> None:
    owner = f"refused-{next(iter(last))}"
    client = caller("editor:own/*", owner)
    set_limit(admin, owner, "principal", writes=1)
    good = {"operation": "put", "url": URL, **a_key(tenant="own")}
    batch = {"operations": [good] * 999 + [{**good, **last}]}
    refused, again = (client.post(f"{ROUTES}/batch", json=batch) for _ in range(2))
    assert (refused.status_code in (400, 403, 422), again.status_code) == (True, 429)
    assert again.headers["ratelimit-policy"].startswith('"principal-writes"')


def test_a_stream_that_cannot_begin_is_charged_once(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client]
) -> None:
    client = caller("viewer:*/*", "late")
    set_limit(admin, "late", "principal", lists=1)
    answer = client.get(f"{CHANGES}/stream", params={"after": "999999999"})
    assert (answer.status_code, code_of(answer)) == (410, "history-gone")


def test_owner_of_the_same_name_in_another_tenant_uses_nothing_up(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client]
) -> None:
    set_limit(admin, "shared", "principal", resolves=1)
    batch = {"keys": [a_key(tenant="greedy")] * 500}
    greedy, other = caller("resolver:greedy/*", "shared"), caller("resolver:modest/*", "shared")
    assert [greedy.post(f"{ROUTES}/resolve", json=batch).status_code for _ in range(2)] == [200, 429]
    assert other.post(f"{ROUTES}/resolve", json={"keys": [a_key(tenant="modest")]}).status_code == 200


@pytest.mark.parametrize("limit", [0, 1])
def test_keys_that_may_not_be_resolved_are_not_asked_for_free(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client], limit: int
) -> None:
    set_limit(admin, f"curious-{limit}", "principal", resolves=limit)
    client = caller("resolver:own/*", f"curious-{limit}")
    batch = {"keys": [a_key(tenant="foreign-keys")] * 500}
    statuses = [client.post(f"{ROUTES}/resolve", json=batch).status_code for _ in range(2)]
    assert statuses == ([200, 429] if limit else [429, 429])


def test_who_may_not_ask_uses_nothing_up(node: Node, admin: httpx2.Client) -> None:
    set_limit(admin, "foreign", lists=1)
    with node.client() as stranger:
        stranger.headers.update(bearer(a_key_for(node, "viewer:other/*", owner="stranger")))
        wait_until(lambda: stranger.get("/api/v1/whoami").status_code == 200)
        statuses = {stranger.get(f"{ROUTES}?tenant=foreign").status_code for _ in range(20)}
    assert statuses == {403}
    assert admin.get(f"{ROUTES}?tenant=foreign").status_code == 200


def test_more_routes_than_a_tenant_may_have_are_403_and_named(admin: httpx2.Client) -> None:
    set_limit(admin, "small", routes=1)
    first, second = (a_key(tenant="small", service=name) for name in ("one", "two"))
    assert admin.put(path_of(first), json={"url": URL}).status_code == 201
    answer = admin.put(path_of(second), json={"url": URL})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:traffic-manager:quota-exceeded")
    assert [(e["field"], e["code"]) for e in answer.json()["errors"]] == [("tenant", "too-many-routes")]
    operations = [{**key, "operation": "put", "url": URL} for key in (first, second)]
    batch = admin.post(f"{ROUTES}/batch", json={"operations": operations, "dry_run": True})
    assert (batch.status_code, batch.json()["index"]) == (403, 1)
    assert admin.delete(path_of(first)).status_code == 204
    assert admin.post(ROUTES, json={**second, "url": URL}).status_code == 201


def test_keys_that_are_made_in_a_tenant_count_against_it(
    admin: httpx2.Client, caller: Callable[[str, str], httpx2.Client]
) -> None:
    set_limit(admin, "still", writes=0)
    wanted = {"owner": "x", "grants": [{"role": "viewer", "tenant": "still", "env": "*"}]}
    own, stranger = caller("admin:still/*", "own"), caller("admin:other/*", "stranger")
    assert [client.post("/api/v1/keys", json=wanted).status_code for client in (own, stranger)] == [429, 403]


def test_more_keys_than_may_hold_in_a_tenant_are_403_and_named(admin: httpx2.Client) -> None:
    set_limit(admin, "few-keys", keys=1)
    wanted = {"owner": "x", "grants": [{"role": "viewer", "tenant": "few-keys", "env": "*"}]}
    assert admin.post("/api/v1/keys", json=wanted).status_code == 201
    answer = admin.post("/api/v1/keys", json=wanted)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "too-many-keys")


def test_wrong_keys_are_limited_by_address_and_good_ones_are_not(node: Node, admin: httpx2.Client) -> None:
    def status(address: str, header: dict[str, str]) -> int:
        connection = HTTPConnection(HOST, node.port, timeout=10.0, source_address=("127.0.0.2", 0))
        try:
            connection.request("GET", ROUTES, headers={**header, "X-Forwarded-For": address})
            return connection.getresponse().status
        finally:
            connection.close()

    wrong = bearer("tmk_wrong")
    wait_until(lambda: status("192.0.2.1", wrong) == 429, what="a refusal")
    assert status("192.0.2.2", wrong) == 401
    assert status("192.0.2.1", {"Authorization": admin.headers["authorization"]}) == 200


# Both ways in

RESOLVE = (
    b"GET /api/v1/routes/resolve?tenant=team-a&service=payments&env=prod&version=%b HTTP/1.1\r\n"
    b"Host: x\r\n%b\r\n"
)


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n", b'If-None-Match: "a"\r\n'])
@pytest.mark.parametrize("version", [b"v2", b"missing"])
def test_lane_refuses_as_the_documented_route_does(version: bytes, header: bytes) -> None:
    with the_twins(limiter=a_limiter(Limit("tenant", "team-a", resolves=0))) as twins:
        of_lane, documented = twins.answers(RESOLVE % (version, header))
    assert of_lane == documented
    assert of_lane.startswith(b"HTTP/1.1 429 ")


def test_answers_within_a_limit_are_the_same_as_without_one() -> None:
    with the_twins(limiter=a_limiter(Limit("tenant", "team-a", resolves=MANY))) as twins:
        within = twins.answers(RESOLVE % (b"v2", b""))
    with the_twins() as twins:
        without = twins.answers(RESOLVE % (b"v2", b""))
    assert within[0] == within[1] == without[0]
    assert b"ratelimit" not in comparable(within[0]).lower()
