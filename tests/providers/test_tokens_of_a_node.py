"""Tokens over HTTP, with a provider that does what it is told: who asks, what that permits, keys that change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.access.authority import Authority
from tests.access.forge import claims, jwks, rsa, token
from tests.access.issue import REQUIRED, bearer
from tests.access.test_token_corpus import CORPUS
from tests.api.calls import code_of
from tests.cli.test_keys import at
from tests.node import Node, a_key, a_route, path_of, resolve, wait_until
from tests.providers.stub import CONFIGURATION, JWKS, Stub, a_provider

WHOAMI = "/api/v1/whoami"


@pytest.fixture(scope="module")
def stub(authority: Authority) -> Iterator[Stub]:
    """A provider with one key."""
    with a_provider(authority, jwks(rsa("r1"))) as stub:
        yield stub


def a_node(folder: Path, *stubs: Stub, **settings: str) -> Node:
    """Return a server that takes tokens of *stubs*."""
    file = folder / "issuers.json"
    file.write_text(json.dumps([stub.described(name=f"corp{n or ''}") for n, stub in enumerate(stubs)]))
    return Node(folder, {**REQUIRED, "AUTH_ISSUERS_FILE": str(file), **settings})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, stub: Stub) -> Iterator[Node]:
    with a_node(tmp_path_factory.mktemp("tokens"), stub) as node:
        yield node.start()


@pytest.fixture(scope="module")
def client(node: Node, stub: Stub) -> Iterator[httpx2.Client]:
    with node.client(timeout_s=30.0) as client:
        wait_until_taken(client, shown(stub))
        yield client


def wait_until_taken(client: httpx2.Client, headers: dict[str, str]) -> None:
    """Return when a good token is taken. On a busy machine the provider may answer too late at first, which is 503;
    what it never may be is 401."""

    def status() -> int:
        found = client.get(WHOAMI, headers=headers).status_code
        assert found in (200, 503)
        return found

    wait_until(lambda: status() == 200, 60.0, "a good token")


def shown(stub: Stub, kid: str = "r1", **changes: Any) -> dict[str, str]:
    """Return the header that shows a good token with *changes*."""
    return bearer(token(claims(time.time(), iss=stub.url, **changes), rsa(kid)).decode())


def test_token_may_what_its_claims_say(stub: Stub, client: httpx2.Client) -> None:
    key, headers = a_key(), shown(stub)
    put = client.put(path_of(key), json={"url": a_route()["url"]}, headers=headers)
    assert put.status_code == 201
    answers = [resolve(client, key, **headers) for _ in range(3)]  # the documented way, then the lane
    assert [answer.json()["url"] for answer in answers] == [a_route()["url"]] * 3
    assert resolve(client, a_key(tenant="team-b"), **headers).status_code == 403
    changes = client.get(f"{path_of(key)}/history", headers=headers).json()["changes"]
    assert {change["actor"] for change in changes} == {"token:corp/alice"}


def test_whoami_says_what_it_may_and_which_claim_says_so(stub: Stub, node: Node) -> None:
    text = shown(stub, groups=["ops", "team-a", "strangers"])["Authorization"].removeprefix("Bearer ")
    found = at(node, "whoami", "-o", "json", TM_API_KEY=text).document
    assert (found["name"], found["credential"], found["key_id"]) == ("token:corp/alice", "token", None)
    assert {f"{g['role']}:{g['tenant']}/{g['env']}": g["source"] for g in found["grants"]} == {
        "editor:team-a/*": "groups team-a of corp",
        "viewer:*/*": "groups ops of corp",
    }


@pytest.mark.parametrize("groups", [None, [], "strangers", ["strangers"], {"team-a": 1}, [["team-a"]], 7])
def test_token_without_a_claim_that_counts_is_somebody_who_may_nothing(
    stub: Stub, client: httpx2.Client, groups: Any
) -> None:
    headers = shown(stub, groups=groups)
    assert client.get(WHOAMI, headers=headers).json()["grants"] == []
    assert resolve(client, a_key(), **headers).status_code == 403


def test_hostile_tokens_get_the_answer_that_everybody_gets(stub: Stub, client: httpx2.Client) -> None:
    stub.asked.clear()
    bodies = set()
    for make in CORPUS.values():
        text = make()
        if not text.isascii() or b"\n" in text:
            continue
        answer = client.get(WHOAMI, headers={**bearer(text.decode()), "X-Correlation-ID": "same"})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        bodies.add(answer.content)
    assert len(bodies) == 1
    assert not stub.asked  # they are of another issuer, or not good for other reasons


def test_key_that_is_new_is_found_while_the_first_request_waits(tmp_path: Path, authority: Authority) -> None:
    with a_provider(authority, jwks(rsa("r1"))) as stub, a_node(tmp_path, stub) as node:
        node.start()
        with node.client(timeout_s=30.0) as client:
            wait_until_taken(client, shown(stub))
            stub.keys = jwks(rsa("r2"), rsa("r1"))
            with ThreadPoolExecutor(8) as threads:
                done = [threads.submit(wait_until_taken, client, shown(stub, "r2")) for _ in range(16)]
            assert [future.exception() for future in done] == [None] * 16
            assert client.get(WHOAMI, headers=shown(stub)).status_code == 200


def test_flood_of_unknown_keys_hardly_reaches_the_provider(tmp_path: Path, authority: Authority) -> None:
    with a_provider(authority, jwks(rsa("r1"))) as stub, a_node(tmp_path, stub) as node:
        node.start()
        with node.client(timeout_s=30.0) as client:
            wait_until_taken(client, shown(stub))
            before = stub.asked[JWKS]
            for number in range(30):
                forged = token(claims(time.time(), iss=stub.url), rsa("r1"), header={"kid": f"k{number}"})
                assert client.get(WHOAMI, headers=bearer(forged.decode())).status_code in (401, 503)
            # Twice, and now and then of its own accord.
            assert stub.asked[JWKS] <= before + 5
            assert client.get(WHOAMI, headers=shown(stub)).status_code == 200


def test_provider_that_hangs_holds_up_nobody_whose_key_is_known(tmp_path: Path, authority: Authority) -> None:
    with a_provider(authority, jwks(rsa("r1"))) as stub, a_node(tmp_path, stub) as node:
        node.start()
        with node.client(timeout_s=30.0) as client, ThreadPoolExecutor(1) as threads:
            wait_until_taken(client, shown(stub))
            stub.answers = {JWKS: stub.hang, CONFIGURATION: stub.hang}
            asked = stub.asked[JWKS]
            waiting = threads.submit(client.get, WHOAMI, headers=shown(stub, "r2"))
            wait_until(lambda: stub.asked[JWKS] > asked, what="the question to the provider")
            # Fresh tokens, whose signatures have to be checked.
            statuses = [client.get(WHOAMI, headers=shown(stub, sub=f"u{n}")).status_code for n in range(20)]
            assert statuses == [200] * 20
            # Whether there is such a key only the provider could tell.
            assert code_of(waiting.result(30.0)) == "issuer-unavailable"


def test_provider_that_was_never_there_is_503_for_its_tokens_alone(
    tmp_path: Path, authority: Authority
) -> None:
    with a_provider(authority, jwks(rsa("r1"))) as stub, a_provider(authority, jwks(rsa("r1"))) as away:
        away.stop()
        with a_node(tmp_path, stub, away) as node:
            node.start()
            with node.client(timeout_s=30.0) as client:
                answer = client.get(WHOAMI, headers=shown(away))
                assert (answer.status_code, code_of(answer)) == (503, "issuer-unavailable")
                assert answer.headers["Retry-After"] in "123"
                assert resolve(client, a_key(), **shown(away)).status_code == 503
                wait_until_taken(client, shown(stub))


def test_tokens_that_cannot_be_checked_are_limited_by_address_as_wrong_ones_are(
    tmp_path: Path, authority: Authority
) -> None:
    with a_provider(authority, jwks(rsa("r1"))) as away:
        away.stop()
        with a_node(tmp_path, away, LIMIT_FAILED_SIGN_INS="2") as node:
            node.start()
            with node.client(timeout_s=30.0) as client:
                statuses = [client.get(WHOAMI, headers=shown(away)).status_code for _ in range(4)]
    assert statuses == [503, 503, 429, 429]


def test_token_that_ends_is_refused_from_then_on(stub: Stub, client: httpx2.Client) -> None:
    headers = shown(stub, exp=time.time() + 5.0)
    wait_until(lambda: client.get(WHOAMI, headers=headers).status_code == 200, 4.0)
    wait_until(lambda: client.get(WHOAMI, headers=headers).status_code == 401, 30.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("[", "Expecting value"),
        ("[]", "must be a list of issuers"),
        ('[{"name": "corp"}]', "issuer 1: has no algorithms"),
    ],
)
def test_bad_file_of_issuers_refuses_the_start(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "issuers.json"
    if text is not None:
        file.write_text(text)
    with Node(tmp_path, {**REQUIRED, "AUTH_ISSUERS_FILE": str(file)}) as node:
        node.start(wait_ready=False)
        assert node.wait_for_exit() == 1
        assert f"AUTH_ISSUERS_FILE: {reason}" in node.log()
