"""Who may do what over HTTP: kinds of callers x operations x places, from the one table; and whoever may not learns
nothing, whether what is asked for exists or not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import httpx2
import pytest

from tests.access.issue import REQUIRED, an_admin, bearer
from tests.api.calls import code_of
from tests.node import Json, Node, a_key, path_of
from traffic_manager.access.permissions import OF_ALL_TENANTS, ROLES_OF, Operation

KEYS = "/api/v1/keys"
ROUTES = "/api/v1/routes"
URL = "https://payments.example.com/v2"
UNKNOWN_KEY = "nosuchkey000"

CALLERS: dict[str, tuple[str, ...]] = {
    "resolver": ("resolver:own/prod",),
    "viewer": ("viewer:own/prod",),
    "editor": ("editor:own/prod",),
    "admin": ("admin:own/prod",),
    "editor of a tenant": ("editor:own/*",),
    "viewer here, editor there": ("viewer:own/prod", "editor:other/test"),
    "admin of everything": ("admin:*/*",),
    "monitor": ("monitor:*/*",),
}
PLACES = list(product(("own", "other"), ("prod", "test")))
# Each place with what is there, and with what is not.
TARGETS = [(tenant, env, version) for (tenant, env), version in product(PLACES, ("there", "missing"))]
OPERATIONS = [operation for operation in Operation if operation not in OF_ALL_TENANTS]


def test_the_matrix_is_as_large_as_promised() -> None:
    assert len(CALLERS) * len(OPERATIONS) * len(TARGETS) >= 294


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks everybody for a key."""
    with Node(tmp_path_factory.mktemp("matrix"), REQUIRED) as node:
        yield node.start()


@pytest.fixture(scope="module")
def admin(node: Node) -> Iterator[httpx2.Client]:
    """Somebody who may do everything, to arrange and to look."""
    with an_admin(node) as client:
        yield client


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest, node: Node, admin: httpx2.Client) -> Iterator[Caller]:
    """Each kind of caller in turn, over the same routes."""
    seed(admin)
    grants = CALLERS[request.param]
    key = made_key(admin, *grants)["key"]
    with httpx2.Client(base_url=node.url, headers={**bearer(key), "X-Correlation-ID": "same"}) as client:
        yield Caller(client, grants)


class Caller:
    """A client with its grants."""

    def __init__(self, client: httpx2.Client, grants: tuple[str, ...]) -> None:
        self.client = client
        self._grants = [
            (role, *place.split("/")) for role, _, place in (grant.partition(":") for grant in grants)
        ]

    def may(self, operation: Operation, tenant: str, env: str) -> bool:
        """Return what the table says."""
        return any(
            role in ROLES_OF[operation] and t in ("*", tenant) and e in ("*", env)
            for role, t, e in self._grants
        )

    def may_somewhere(self, operation: Operation) -> bool:
        return any(role in ROLES_OF[operation] for role, _, _ in self._grants)


def seed(admin: httpx2.Client) -> None:
    """Have the route `there` in every place, and `missing` in none."""
    operations = []
    for tenant, env in PLACES:
        for page in admin.get(ROUTES, params={"tenant": tenant, "env": env}).json()["routes"]:
            names = {name: page[name] for name in ("tenant", "service", "env", "version")}
            operations.append({**names, "operation": "delete"})
        operations.append({**a_key(tenant=tenant, env=env, version="there"), "operation": "put", "url": URL})
    assert admin.post(f"{ROUTES}/batch", json={"operations": operations}).status_code == 200


def made_key(admin: httpx2.Client, *grants: str) -> Json:
    wanted = []
    for grant in grants:
        role, _, place = grant.partition(":")
        tenant, _, env = place.partition("/")
        wanted.append({"role": role, "tenant": tenant, "env": env})
    document: Json = admin.post(KEYS, json={"owner": "x", "grants": wanted}).json()
    return document


def ask(
    client: httpx2.Client, operation: Operation, target: tuple[str, str, str], key_id: str
) -> httpx2.Response:
    """Do *operation* on the target, or on the key *key_id*."""
    tenant, env, version = target
    key = a_key(tenant=tenant, env=env, version=version)
    place = {"tenant": tenant, "env": env}
    match operation:
        case Operation.RESOLVE:
            return client.get(f"{ROUTES}/resolve", params=key)
        case Operation.LIST:
            return client.get(ROUTES, params=place)
        case Operation.GET:
            return client.get(path_of(key))
        case Operation.HISTORY:
            return client.get(path_of(key) + "/history")
        case Operation.CHANGES:
            return client.get("/api/v1/changes", params=place)
        case Operation.CREATE:
            return client.post(ROUTES, json={**key, "url": URL})
        case Operation.PUT:
            return client.put(path_of(key), json={"url": URL + "/new"})
        case Operation.ACTIVATE | Operation.DEACTIVATE:
            return client.post(f"{ROUTES}/{operation.value}", json=key)
        case Operation.DELETE:
            return client.delete(path_of(key))
        case Operation.LIST_KEYS:
            return client.get(KEYS, params={"page_size": 500})
        case Operation.CREATE_KEY:
            return client.post(KEYS, json={"owner": "x", "grants": [{"role": "resolver", **place}]})
        case Operation.ROTATE_KEY:
            return client.post(f"{KEYS}/{key_id}/rotate", json={})
        case Operation.REVOKE_KEY:
            return client.post(f"{KEYS}/{key_id}/revoke")
        case Operation.LIST_LIMITS:
            return client.get("/api/v1/limits")
        case Operation.SET_LIMIT:
            return client.put(f"/api/v1/limits/tenant/{tenant}", json={"routes": 1_000_000})
        case Operation.READ_METRICS:
            return client.get("/metrics")


def test_every_operation_in_every_place_is_answered_as_the_table_says(
    caller: Caller, admin: httpx2.Client
) -> None:
    asked = 0
    for target, operation in product(TARGETS, OPERATIONS):
        tenant, env, version = target
        is_there = version == "there"
        key_id = made_key(admin, f"resolver:{tenant}/{env}")["id"] if is_there else UNKNOWN_KEY
        answer = ask(caller.client, operation, target, key_id)
        asked += 1
        where = f"{operation} {target}: {answer.status_code} {answer.text}"
        if operation is Operation.LIST_KEYS:
            found = answer.json().get("keys", [])
            is_shown = key_id in {key["id"] for key in found}
            assert is_shown == (is_there and caller.may(operation, tenant, env)), where
            assert (answer.status_code == 403) == (not caller.may_somewhere(operation)), where
        elif operation in (Operation.ROTATE_KEY, Operation.REVOKE_KEY):
            is_permitted = is_there and caller.may(operation, tenant, env)
            refusal = 404 if caller.may_somewhere(operation) else 403
            assert answer.status_code in ((200, 201) if is_permitted else (refusal,)), where
        elif caller.may(operation, tenant, env):
            assert answer.status_code in (200, 201, 204, 404, 409), where
        else:
            assert (answer.status_code, code_of(answer)) == (403, "forbidden"), where
    assert asked == len(TARGETS) * len(OPERATIONS)
    for tenant, env in PLACES:
        if not caller.may(Operation.PUT, tenant, env):
            routes = admin.get(ROUTES, params={"tenant": tenant, "env": env}).json()["routes"]
            assert [(route["version"], route["url"]) for route in routes] == [("there", URL)]


def test_a_refusal_is_the_same_whether_the_route_exists_or_not(caller: Caller) -> None:
    compared = 0
    for (tenant, env), operation in product(PLACES, OPERATIONS):
        if "key" in operation or caller.may(operation, tenant, env):
            continue
        there, missing = (
            ask(caller.client, operation, (tenant, env, version), UNKNOWN_KEY)
            for version in ("there", "missing")
        )
        assert there.status_code == missing.status_code == 403
        assert there.text == missing.text.replace("missing", "there")
        compared += 1
        general = {"date"}
        assert {n: v for n, v in there.headers.items() if n not in general and n != "content-length"} == {
            n: v for n, v in missing.headers.items() if n not in general and n != "content-length"
        }
    assert compared or caller.may(Operation.DELETE, "other", "test")


def test_lists_and_changes_show_what_the_caller_may_see_and_nothing_else(caller: Caller) -> None:
    for operation, path, part in (
        (Operation.LIST, ROUTES, "routes"),
        (Operation.CHANGES, "/api/v1/changes", "changes"),
    ):
        visible = {place for place in PLACES if caller.may(operation, *place)}
        found: set[tuple[str, str]] = set()
        question: dict[str, str] = {"limit": "1000"} if part == "changes" else {"page_size": "1"}
        answer = caller.client.get(path, params=question)
        while answer.status_code == 200:
            page = answer.json()
            found |= {(item["tenant"], item["env"]) for item in page[part]}
            token = page.get("next_page_token")
            if token is None:
                break
            answer = caller.client.get(path, params={**question, "page_token": token})
        assert found == visible, operation
        assert (answer.status_code == 403) == (not visible)


def test_a_batch_with_one_operation_that_is_not_permitted_does_nothing(
    caller: Caller, admin: httpx2.Client
) -> None:
    permitted = [place for place in PLACES if caller.may(Operation.PUT, *place)]
    forbidden = [place for place in PLACES if place not in permitted]
    for dry_run, (tenant, env) in product((False, True), forbidden):
        places = [*permitted, (tenant, env)]
        operations = [
            {**a_key(tenant=t, env=e, version="batch"), "operation": "put", "url": URL} for t, e in places
        ]
        answer = caller.client.post(f"{ROUTES}/batch", json={"operations": operations, "dry_run": dry_run})
        assert (answer.status_code, code_of(answer)) == (403, "forbidden")
        assert answer.json()["index"] == len(permitted)
    assert admin.get(ROUTES, params={"version": "batch"}).json()["routes"] == []


def test_a_batch_of_resolves_answers_each_key_for_itself(caller: Caller) -> None:
    keys = [a_key(tenant=tenant, env=env, version=version) for tenant, env, version in TARGETS]
    results = caller.client.post(f"{ROUTES}/resolve", json={"keys": keys}).json()["results"]
    for key, result in zip(keys, results, strict=True):
        status = 200 if key["version"] == "there" else 404
        if not caller.may(Operation.RESOLVE, key["tenant"], key["env"]):
            status = 403
            assert (result["url"], result["revision"], result["code"]) == (None, None, "forbidden")
        assert result["status"] == status


def test_streams_are_open_to_those_who_may_see_changes(caller: Caller) -> None:
    for tenant, env in PLACES:
        with caller.client.stream(
            "GET", "/api/v1/changes/stream", params={"tenant": tenant, "env": env}
        ) as answer:
            assert answer.status_code == (200 if caller.may(Operation.CHANGES, tenant, env) else 403)


@pytest.mark.parametrize("operation", sorted(OF_ALL_TENANTS))
def test_what_spans_all_tenants_is_for_those_who_may_do_it_in_every_one(
    caller: Caller, operation: Operation
) -> None:
    answer = ask(caller.client, operation, ("own", "prod", "there"), UNKNOWN_KEY)
    assert answer.status_code == (200 if caller.may(operation, "any", "any") else 403)
