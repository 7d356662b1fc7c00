"""A real OpenID provider: its tokens open a server, while its keys change, while it hangs, and without it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx2
import pytest
from joserfc.jwk import RSAKey

from tests.access.authority import Authority
from tests.access.issue import REQUIRED, bearer
from tests.node import Node, a_key, a_route, path_of, resolve
from tests.providers.test_tokens_of_a_node import wait_until_taken
from tests.servers.fixtures import started
from tests.servers.oidc import OidcProvider

pytestmark = pytest.mark.servers
WHOAMI = "/api/v1/whoami"
OLD, NEW = (
    RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}).as_dict(private=True)
    for kid in ("old", "new")
)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OidcProvider]:
    """One that signs with OLD."""
    provider = OidcProvider(Authority(tmp_path), {"keys": [OLD]})
    for _ in started(provider):
        yield provider


@pytest.fixture
def node(tmp_path: Path, provider: OidcProvider) -> Iterator[Node]:
    """A server that takes its tokens."""
    with Node(tmp_path, {**REQUIRED, **provider.env()}) as node:
        yield node.start()


@pytest.fixture
def client(node: Node) -> Iterator[httpx2.Client]:
    with node.client(timeout_s=30.0) as client:
        yield client


def test_token_of_a_real_provider_opens_what_its_claims_say(
    provider: OidcProvider, client: httpx2.Client
) -> None:
    headers = bearer(provider.token())
    wait_until_taken(client, headers)
    found = client.get(WHOAMI, headers=headers).json()
    assert (found["name"], found["credential"]) == ("token:provider/ci", "token")
    assert client.put(path_of(a_key()), json={"url": a_route()["url"]}, headers=headers).status_code == 201
    assert [resolve(client, a_key(), **headers).status_code for _ in range(3)] == [200] * 3
    assert resolve(client, a_key(tenant="team-b"), **headers).status_code == 403


def test_keys_change_under_load_and_no_good_token_is_refused(
    provider: OidcProvider, client: httpx2.Client
) -> None:
    old, stop = bearer(provider.token()), Event()
    wait_until_taken(client, old)

    def use(headers: dict[str, str]) -> set[int]:
        statuses = {client.get(WHOAMI, headers=headers).status_code}
        while not stop.is_set():
            statuses.add(client.get(WHOAMI, headers=headers).status_code)
        return statuses

    with ThreadPoolExecutor(4) as threads:
        users = [threads.submit(use, old)]
        try:
            provider.stop()
            provider.keys = {"keys": [NEW, OLD]}
            provider.start()
            users += [threads.submit(use, bearer(provider.token())) for _ in range(3)]
            wait_until_taken(client, bearer(provider.token()))
        finally:
            stop.set()
        # 503 may be, while the provider is asked for longer than it may take; 401 never.
        assert all(user.result() <= {200, 503} for user in users)


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_provider_that_is_away_is_not_missed(
    provider: OidcProvider, client: httpx2.Client, fault: str
) -> None:
    tokens = [bearer(provider.token()) for _ in range(3)]
    wait_until_taken(client, tokens[0])
    getattr(provider, fault)()
    try:
        assert [client.get(WHOAMI, headers=token).status_code for token in tokens] == [200] * 3
    finally:
        if fault == "freeze":
            provider.thaw()


def test_token_for_another_audience_opens_nothing(tmp_path: Path, node: Node, client: httpx2.Client) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = OidcProvider(Authority(folder), {"keys": [OLD]}, audience="somebody-else")
    with other:
        assert client.get(WHOAMI, headers=bearer(other.token())).status_code == 401
