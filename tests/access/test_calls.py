"""API keys over HTTP: who is let in, who may do what, and what nobody sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import httpx2
import pytest

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.api.calls import code_of
from tests.monitoring.exposition import values
from tests.node import Json, Node, a_key, a_route, path_of, wait_until
from traffic_manager.access.credentials import Credential

KEYS = "/api/v1/keys"
WHOAMI = "/api/v1/whoami"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks everybody for a key."""
    with Node(tmp_path_factory.mktemp("guarded"), REQUIRED) as node:
        yield node.start()


@pytest.fixture(scope="module")
def admin(node: Node) -> Iterator[httpx2.Client]:
    """The first key, as whoever runs the server makes it."""
    with client_with(node, a_key_for(node, "admin:*/*", owner="root")) as client:
        yield client


@contextmanager
def client_with(node: Node, key: str) -> Iterator[httpx2.Client]:
    """Lend a client that shows *key*, once the server knows it."""
    with node.client() as client:
        client.headers.update(bearer(key))
        wait_until(lambda: client.get(WHOAMI).status_code == 200, what="the new key")
        yield client


def issued(admin: httpx2.Client, *grants: str, owner: str = "alice") -> Json:
    """Return the answer to making a key."""
    wanted = []
    for grant in grants:
        role, _, place = grant.partition(":")
        tenant, _, env = place.partition("/")
        wanted.append({"role": role, "tenant": tenant, "env": env})
    answer = admin.post(KEYS, json={"owner": owner, "grants": wanted})
    assert answer.status_code == 201, answer.text
    document: Json = answer.json()
    return document


def asked_with(node: Node, **headers: str) -> httpx2.Response:
    """Return what the server says to a request with these headers."""
    return stranger(node).get(
        WHOAMI, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


@cache
def stranger(node: Node) -> httpx2.Client:
    """Return a client without a key."""
    return node.client()


class TestAtTheDoor:
    def test_health_answers_everybody_and_nothing_else_does(self, node: Node) -> None:
        document = _document(node)
        for path in ("/health", "/health/live", "/health/ready"):
            assert stranger(node).get(path).status_code == 200
        closed = [
            *((method.upper(), path) for path, calls in document["paths"].items() for method in calls),
            *(("GET", path) for path in ("/docs", "/openapi.json", "/nowhere", "/health/", "/api/v1")),
        ]
        for method, path in closed:
            if not path.startswith("/health") or path == "/health/":
                answer = stranger(node).request(method, path.replace("{", "").replace("}", ""))
                assert (answer.status_code, code_of(answer)) == (401, "unauthenticated"), path
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert len(closed) > 20

    def test_every_bad_credential_gets_the_same_answer(self, node: Node, admin: httpx2.Client) -> None:
        revoked = issued(admin, "viewer:a/prod")
        admin.post(f"{KEYS}/{revoked['id']}/revoke")
        expired = a_key_for(node, "viewer:a/prod", lifetime=timedelta(milliseconds=1))
        good = issued(admin, "viewer:a/prod")["key"]
        wrong = Credential(good[4:16], good[:59].encode() + (b"A" if good[59] != "A" else b"B"))
        bad = [revoked["key"], expired, str(Credential.new()), str(wrong), good[:-1], good + "x", "tmk_"]
        bodies = set()
        for credential in bad:
            answer = stranger(node).get(WHOAMI, headers={**bearer(credential), "X-Correlation-ID": "same"})
            bodies.add((answer.status_code, answer.headers.get("WWW-Authenticate"), answer.content))
        assert len(bodies) == 1
        assert next(iter(bodies))[:2] == (401, "Bearer")

    def test_both_headers_are_taken_but_not_together(self, node: Node, admin: httpx2.Client) -> None:
        key = issued(admin, "viewer:a/prod")["key"]
        assert asked_with(node, authorization=f"Bearer {key}").status_code == 200
        assert asked_with(node, authorization=f"bearer {key}").status_code == 200
        assert asked_with(node, x_api_key=key).status_code == 200
        assert asked_with(node, authorization=f"Bearer {key}", x_api_key=key).status_code == 401
        assert asked_with(node, authorization=f"Basic {key}").status_code == 401
        assert asked_with(node, authorization=key).status_code == 401
        twice = stranger(node).get(WHOAMI, headers=[("X-API-Key", key), ("X-API-Key", key)])
        assert twice.status_code == 401

    def test_no_other_header_opens_the_door(self, node: Node) -> None:
        for name, value in {
            "User-Agent": "traffic-manager",
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-User": "root",
            "Forwarded": "for=127.0.0.1",
            "X-Original-URL": "/health",
            "X-HTTP-Method-Override": "GET",
            "Cookie": "key=1",
        }.items():
            assert stranger(node).get(WHOAMI, headers={name: value}).status_code == 401

    def test_body_of_a_stranger_is_not_read(self, node: Node) -> None:
        answer = stranger(node).post("/api/v1/routes/batch", content=b"{" * 2_000_000)
        assert answer.status_code == 401


# What each call with a body is sent, so that nothing but the permission is wrong with it.
BODIES: dict[str, Json] = {
    "/api/v1/routes": a_route(tenant="nobody"),
    "/api/v1/routes/activate": a_key(tenant="nobody"),
    "/api/v1/routes/deactivate": a_key(tenant="nobody"),
    "/api/v1/routes/batch": {"operations": [{**a_route(tenant="nobody"), "operation": "create"}]},
    "/api/v1/routes/resolve": {"keys": [a_key(tenant="nobody")]},
    "/api/v1/routes/{tenant}/{service}/{env}/{version}": {"url": "https://a.example.com/"},
    "/api/v1/keys": {"owner": "x", "grants": [{"role": "resolver"}]},
    "/api/v1/keys/{key_id}/rotate": {},
    "/api/v1/limits/{subject}/{name}": {},
}


def test_whoever_may_nothing_gets_nothing_from_any_call(node: Node) -> None:
    """Holds every call that the document has, also those that come later."""
    told = {"/api/v1/whoami", "/api/v1/routes/resolve"}  # who they are; and of each key that it is forbidden
    with client_with(node, a_key_for(node, "resolver:nowhere/none")) as client:
        document = client.get("/openapi.json").json()
        for path, calls in document["paths"].items():
            for method, call in calls.items():
                if path.startswith("/health") or (path in told and (method == "post" or "whoami" in path)):
                    continue
                body = BODIES[path] if "requestBody" in call else None
                needed = {
                    p["name"] for p in call.get("parameters", ()) if p["in"] == "query" and p["required"]
                }
                names = {name: value for name, value in a_key(tenant="nobody").items() if name in needed}
                filled = path.format(
                    **a_key(tenant="nobody"), key_id="nosuchkey000", subject="tenant", name="nobody"
                )
                answer = client.request(method.upper(), filled, params=names, json=body)
                assert (answer.status_code, code_of(answer)) == (403, "forbidden"), (method, path)
        results = client.post("/api/v1/routes/resolve", json=BODIES["/api/v1/routes/resolve"]).json()[
            "results"
        ]
        assert [result["status"] for result in results] == [403]


class TestWhoAmI:
    def test_it_tells_name_grants_operations_and_what_says_so(self, node: Node, admin: httpx2.Client) -> None:
        made = issued(admin, "resolver:team-a/prod", "viewer:*/test", owner="carol")
        answer = stranger(node).get(WHOAMI, headers=bearer(made["key"])).json()
        assert answer == {
            "name": f"carol/{made['id']}",
            "credential": "key",
            "key_id": made["id"],
            "expires_at": made["expires_at"],
            "auth_mode": "required",
            "grants": [
                {
                    "role": "resolver",
                    "tenant": "team-a",
                    "env": "prod",
                    "operations": ["resolve"],
                    "source": f"the key {made['id']}",
                },
                {
                    "role": "viewer",
                    "tenant": "*",
                    "env": "test",
                    "operations": ["resolve", "list", "get", "history", "changes"],
                    "source": f"the key {made['id']}",
                },
            ],
        }


class TestKeys:
    def test_key_is_shown_once_and_never_again(self, admin: httpx2.Client) -> None:
        answer = admin.post(KEYS, json={"owner": "alice", "grants": [{"role": "viewer"}]})
        made = answer.json()
        assert answer.headers["Cache-Control"] == "no-store"
        assert made["created_by"].startswith("root/")
        listed = admin.get(KEYS, params={"page_size": 500})
        shown = {key["id"]: key for key in listed.json()["keys"]}[made["id"]]
        assert shown == {name: value for name, value in made.items() if name != "key"}
        assert made["key"][17:60] not in listed.text

    def test_list_comes_in_pages(self, admin: httpx2.Client) -> None:
        for _ in range(3):
            issued(admin, "viewer:a/prod")
        found, token = [], None
        while True:
            parameters = {"page_size": 2} | ({"page_token": token} if token else {})
            page = admin.get(KEYS, params=parameters).json()
            found += [key["id"] for key in page["keys"]]
            token = page["next_page_token"]
            if token is None:
                break
        assert found == sorted(set(found))
        assert len(found) == len(admin.get(KEYS, params={"page_size": 500}).json()["keys"])

    def test_request_that_is_sent_again_is_done_once(self, admin: httpx2.Client) -> None:
        def ask(call: str, name: str, body: Json | None = None) -> httpx2.Response:
            return admin.post(f"{KEYS}{call}", json=body, headers={"Idempotency-Key": name})

        wanted = {"owner": "once", "grants": [{"role": "viewer"}]}
        made = ask("", "made", wanted).json()
        rotated = ask(f"/{made['id']}/rotate", "rotated", {}).json()
        for issued, again in (
            (made, ask("", "made", wanted)),
            (rotated, ask(f"/{made['id']}/rotate", "rotated", {})),
        ):
            assert (again.status_code, code_of(again)) == (409, "key-issued-before")
            assert again.json()["key_id"] == issued["id"]
            assert issued["key"] not in again.text
        revoked, same = (ask(f"/{made['id']}/revoke", "revoked") for _ in range(2))
        assert (same.status_code, same.content) == (200, revoked.content)
        assert same.headers["TM-Revision"] == revoked.headers["TM-Revision"]
        assert (same.headers["Idempotency-Replayed"], revoked.headers.get("Idempotency-Replayed")) == (
            "?1",
            None,
        )
        owned = [
            key for key in admin.get(KEYS, params={"page_size": 500}).json()["keys"] if key["owner"] == "once"
        ]
        assert len(owned) == 2

    def test_one_name_for_two_requests_is_refused(self, admin: httpx2.Client) -> None:
        wanted = {"owner": "twice", "grants": [{"role": "viewer"}]}
        named = {"Idempotency-Key": "twice"}
        assert admin.post(KEYS, json=wanted, headers=named).status_code == 201
        other = admin.post(KEYS, json={**wanted, "owner": "other"}, headers=named)
        assert (other.status_code, code_of(other)) == (422, "idempotency-key-reused")
        limit = admin.put("/api/v1/limits/tenant/team-a", json={"writes": 1000}, headers=named)
        assert (limit.status_code, code_of(limit)) == (422, "idempotency-key-reused")

    def test_rotation_lets_both_in_and_revocation_nobody(self, node: Node, admin: httpx2.Client) -> None:
        old = issued(admin, "viewer:a/prod")
        new = admin.post(f"{KEYS}/{old['id']}/rotate", json={"overlap_seconds": 60})
        assert new.status_code == 201
        both = [old["key"], new.json()["key"]]
        assert [asked_with(node, x_api_key=key).status_code for key in both] == [200, 200]
        for key_id in (old["id"], new.json()["id"]):
            assert admin.post(f"{KEYS}/{key_id}/revoke").json()["state"] == "revoked"
        assert [asked_with(node, x_api_key=key).status_code for key in both] == [401, 401]

    def test_rotation_without_overlap_ends_the_old_key_at_once(
        self, node: Node, admin: httpx2.Client
    ) -> None:
        old = issued(admin, "viewer:a/prod")
        admin.post(f"{KEYS}/{old['id']}/rotate", json={"overlap_seconds": 0})
        assert asked_with(node, x_api_key=old["key"]).status_code == 401

    @pytest.mark.parametrize("path", ["/api/v1/changes", "/api/v1/routes/resolve"])
    def test_whoever_waits_for_a_change_is_refused_once_its_key_is_revoked(
        self, node: Node, admin: httpx2.Client, path: str
    ) -> None:
        key = issued(admin, "viewer:a/prod")
        head = admin.get("/api/v1/changes", params={"limit": 1}).json()["head"]
        question = {**a_key(tenant="a"), "after": head, "wait": "30"}
        with ThreadPoolExecutor(1) as waiting, node.client(timeout_s=40) as client:
            poll = waiting.submit(client.get, path, params=question, headers=bearer(key["key"]))
            wait_until(lambda: values(admin.get("/metrics").content)["tm_watchers"] == 1, what="the poll")
            admin.post(f"{KEYS}/{key['id']}/revoke")
            assert poll.result().status_code == 401

    def test_key_ends_by_itself_when_its_time_is_over(self, node: Node) -> None:
        key = a_key_for(node, "viewer:a/prod", lifetime=timedelta(seconds=1.5))
        wait_until(lambda: asked_with(node, x_api_key=key).status_code == 200)
        wait_until(lambda: asked_with(node, x_api_key=key).status_code == 401)

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"owner": "no name!"}, 400, "invalid-name"),
            ({"grants": [{"role": "viewer", "tenant": "a/b"}]}, 400, "invalid-name"),
            ({"grants": [{"role": "viewer", "env": ""}]}, 400, "invalid-name"),
            ({"grants": [{"role": "root"}]}, 422, "invalid-value"),
            ({"grants": []}, 422, "too-few"),
            ({"grants": [{"role": "viewer"}] * 33}, 422, "too-many"),
            ({"expires_in_days": 0}, 422, "invalid-value"),
            ({"expires_in_days": 3651}, 422, "invalid-value"),
            ({"expires_in_days": "1"}, 422, "wrong-type"),
            ({"id": "aaaaaaaaaaaa"}, 422, "unknown-field"),
            ({"digest": "00"}, 422, "unknown-field"),
        ],
    )
    def test_wrong_input_makes_no_key(
        self, admin: httpx2.Client, change: Json, status: int, code: str
    ) -> None:
        before = admin.get(KEYS, params={"page_size": 500}).json()
        body = {"owner": "alice", "grants": [{"role": "viewer"}]} | change
        answer = admin.post(KEYS, json=body)
        assert (answer.status_code, code_of(answer)) == (status, code)
        assert admin.get(KEYS, params={"page_size": 500}).json() == before

    def test_administrator_of_a_tenant_stays_within_it(self, node: Node, admin: httpx2.Client) -> None:
        foreign = issued(admin, "viewer:other/prod")["id"]
        with client_with(node, issued(admin, "admin:own/*")["key"]) as own_admin:
            made = issued(own_admin, "editor:own/prod")
            for role, tenant in (("viewer", "other"), ("admin", "*"), ("resolver", "*")):
                grants = [{"role": role, "tenant": tenant}]
                assert own_admin.post(KEYS, json={"owner": "x", "grants": grants}).status_code == 403
            listed = [key["id"] for key in own_admin.get(KEYS).json()["keys"]]
            assert made["id"] in listed
            assert foreign not in listed
            answers = [
                own_admin.post(f"{KEYS}/{key_id}/revoke", headers={"X-Correlation-ID": "same"})
                for key_id in (foreign, "nosuchkey000")
            ]
            texts = {answer.text.replace(foreign, "ID").replace("nosuchkey000", "ID") for answer in answers}
            assert ({a.status_code for a in answers}, len(texts)) == ({404}, 1)


class TestTraces:
    def test_change_names_the_key_that_made_it(self, node: Node, admin: httpx2.Client) -> None:
        made = issued(admin, "editor:team-a/prod", owner="ci")
        with client_with(node, made["key"]) as client:
            assert client.post("/api/v1/routes", json=a_route()).status_code == 201
            history = client.get(path_of(a_key()) + "/history").json()["changes"]
        assert history[0]["actor"] == f"ci/{made['id']}"

    def test_neither_secret_nor_digest_reaches_any_sink(self, node: Node, admin: httpx2.Client) -> None:
        made = issued(admin, "editor:sinks/prod", "viewer:*/*", owner="canary")
        secret = made["key"][17:60]
        with client_with(node, made["key"]) as client:
            client.post("/api/v1/routes", json=a_route(tenant="sinks"))
            client.get("/api/v1/routes", params={"tenant": made["key"]})
            client.get(f"/nowhere/{WHOAMI}")
            sinks = [
                client.get("/api/v1/changes", params={"limit": 1000}).text,
                client.get("/metrics").text,
                client.get("/api/v1/routes").text,
                client.get("/openapi.json").text,
                admin.get(KEYS, params={"page_size": 500}).text,
                node.log(),
            ]
        digests = _digests(node)
        assert len(digests) > 3
        for sink in sinks:
            assert len(sink) > 100
            assert secret not in sink
            assert not [digest for digest in digests if digest.hex() in sink.lower()]

    def test_changes_of_keys_are_not_shown_among_those_of_routes(self, admin: httpx2.Client) -> None:
        issued(admin, "viewer:a/prod")
        page = admin.get("/api/v1/changes", params={"limit": 1000}).json()
        assert {change["action"] for change in page["changes"]} <= {"created", "updated"}
        assert all(change["tenant"] for change in page["changes"])


def test_metrics_can_be_left_open_while_all_else_is_closed(tmp_path: Path) -> None:
    with Node(tmp_path, {**REQUIRED, "AUTH_METRICS": "open"}).start() as node:
        assert stranger(node).get("/metrics").status_code == 200
        assert stranger(node).get("/metrics/").status_code == 401
        assert asked_with(node).status_code == 401


def _digests(node: Node) -> list[bytes]:
    with closing(sqlite3.connect(node.environment["DB_PATH"])) as connection:
        return [bytes(row[0]) for row in connection.execute("select digest from api_keys")]


def _document(node: Node) -> Json:
    with client_with(node, a_key_for(node, "resolver:nobody/none")) as client:
        document: Json = client.get("/openapi.json").json()
    return document
