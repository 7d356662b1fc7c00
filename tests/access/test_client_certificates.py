"""Certificates of clients as credentials, with real handshakes: whom they name, what that permits, when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from cryptography import x509

from tests.access.authority import Authority
from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.api.calls import code_of
from tests.cli.test_keys import at
from tests.node import Node, a_key, a_route, path_of, resolve, wait_until
from traffic_manager.access.admitted import Admitted
from traffic_manager.access.client_names import ClientCertificate, ClientNames, grants_by_name
from traffic_manager.access.permissions import CredentialKind
from traffic_manager.errors import Unauthenticated

WHOAMI = "/api/v1/whoami"
CI, VIEWER = "spiffe://example.com/ci", "viewer.example.com"
GRANTS = {f"URI:{CI}": ["editor:team-a/prod", "resolver:team-a/*"], f"DNS:{VIEWER}": ["viewer:team-b/*"]}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom everybody trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


def settings_of(folder: Path, authority: Authority) -> dict[str, str]:
    """Return the settings of a server that takes the authority's certificates."""
    grants = folder / "grants.json"
    grants.write_text(json.dumps(GRANTS))
    own = authority.settings_for_a_server()
    return {
        **own,
        **REQUIRED,
        "TLS_CLIENT_CA_FILE": str(authority.file),
        "TLS_CLIENT_GRANTS_FILE": str(grants),
    }


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Node]:
    """A server that takes keys and certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    with Node(folder, settings_of(folder, authority), authority.trust()) as node:
        yield node.start()


def client_with(node: Node, authority: Authority, *names: x509.GeneralName) -> httpx2.Client:
    """Return a client that shows a new certificate with *names*."""
    return httpx2.Client(base_url=node.url, timeout=10.0, verify=authority.trust(authority.issue(*names)))


@pytest.fixture
def ci(node: Node, authority: Authority) -> Iterator[httpx2.Client]:
    with client_with(node, authority, x509.UniformResourceIdentifier(CI)) as client:
        yield client


def test_certificate_may_what_the_grants_of_its_name_say(ci: httpx2.Client) -> None:
    key = a_key()
    assert ci.put(path_of(key), json={"url": a_route()["url"]}).status_code == 201
    answers = [resolve(ci, key) for _ in range(3)]  # the documented way, then the lane
    assert {(answer.status_code, answer.json()["url"]) for answer in answers} == {(200, a_route()["url"])}
    assert resolve(ci, a_key(tenant="team-b")).status_code == 403
    assert ci.put(path_of(a_key(env="test")), json={"url": a_route()["url"]}).status_code == 403


def test_changes_name_it(ci: httpx2.Client) -> None:
    key = a_key(version="named")
    for url in ("https://one.example.com", "https://two.example.com"):
        assert ci.put(path_of(key), json={"url": url}).status_code < 300
    changes = ci.get(f"{path_of(key)}/history").json()["changes"]
    assert {change["actor"] for change in changes} == {f"certificate:URI:{CI}"}


def test_whoami_says_what_it_may_and_why(ci: httpx2.Client) -> None:
    found = ci.get(WHOAMI).json()
    assert (found["name"], found["credential"], found["key_id"]) == (
        f"certificate:URI:{CI}",
        "certificate",
        None,
    )
    assert found["expires_at"] > "2026"
    assert [(g["role"], g["tenant"], g["env"]) for g in found["grants"]] == [
        ("editor", "team-a", "prod"),
        ("resolver", "team-a", "*"),
    ]
    assert {g["source"] for g in found["grants"]} == {f"URI:{CI} in TLS_CLIENT_GRANTS_FILE"}


def test_command_line_shows_a_certificate(node: Node, authority: Authority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(
        b"".join(f.read_bytes() for f in authority.issue(x509.DNSName("a.example.com"), x509.DNSName(VIEWER)))
    )
    files = {"TM_CA_FILE": str(authority.file), "TM_CERT_FILE": str(both)}
    found = at(node, "whoami", "-o", "json", **files).document
    assert (found["name"], found["credential"]) == (f"certificate:DNS:{VIEWER}", "certificate")
    shown = at(node, "whoami", **files)
    assert "TLS_CLIENT_GRANTS_FILE" in shown.out
    assert "by a certificate, until 20" in shown.err


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("elsewhere.example.com"),),
        (x509.DNSName(CI),),  # the right text of the wrong kind
        (x509.UniformResourceIdentifier(f"{CI}/more"),),
        (x509.UniformResourceIdentifier(CI.upper()),),
        (x509.RFC822Name(f"ci@{VIEWER}"),),
        (x509.DNSName(f"{VIEWER}\x00.example.com"),),
    ],
    ids=str,
)
def test_certificate_without_a_known_name_is_no_credential(
    node: Node, authority: Authority, names: tuple[x509.GeneralName, ...]
) -> None:
    with client_with(node, authority, *names) as client:
        assert client.get(WHOAMI).status_code == 401
        assert client.get("/health").status_code == 200


def test_dns_names_are_compared_in_small_letters(node: Node, authority: Authority) -> None:
    with client_with(node, authority, x509.DNSName(VIEWER.upper())) as client:
        assert client.get(WHOAMI).json()["name"] == f"certificate:DNS:{VIEWER}"


def test_key_in_a_header_counts_and_a_certificate_saves_no_bad_one(
    node: Node, authority: Authority, ci: httpx2.Client
) -> None:
    key = a_key_for(node, "viewer:team-c/*")
    wait_until(lambda: ci.get(WHOAMI, headers=bearer(key)).status_code == 200)
    assert ci.get(WHOAMI, headers=bearer(key)).json()["credential"] == "key"
    assert resolve(ci, a_key(), **bearer(key)).status_code == 403
    assert ci.get(WHOAMI, headers=bearer(f"{key[:-1]}x")).status_code == 401
    assert ci.get(WHOAMI, headers={**bearer(key), "X-API-Key": key}).status_code == 401
    for headers in (bearer("x"), bearer(key) | {"X-API-Key": key}, {"Authorization": ""}):
        assert [resolve(ci, a_key(), **headers).status_code for _ in range(3)] == [401] * 3


def test_same_request_of_another_certificate_is_another_caller_s(
    node: Node, authority: Authority, ci: httpx2.Client
) -> None:
    """The lane knows a head again, and the certificate is not in it."""
    assert ci.put(path_of(a_key()), json={"url": a_route()["url"]}).status_code < 300
    with client_with(node, authority, x509.DNSName(VIEWER)) as viewer, node.client() as nobody:
        for _ in range(3):
            statuses = [resolve(client, a_key()).status_code for client in (ci, viewer, nobody)]
            assert statuses == [200, 403, 401]


@pytest.mark.parametrize("why", ["authority", "expired", "usage"])
def test_certificate_that_tls_does_not_take_opens_no_connection(
    node: Node, authority: Authority, tmp_path: Path, why: str
) -> None:
    name = x509.UniformResourceIdentifier(CI)
    shown = {
        "authority": lambda: Authority(tmp_path, "stranger").issue(name),
        "expired": lambda: authority.issue(name, lifetime=timedelta(hours=-1)),
        "usage": lambda: authority.issue(name, is_server=True),
    }[why]()
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{node.url}/health", verify=authority.trust(shown))


def test_without_a_certificate_there_is_no_connection_where_one_is_required(
    tmp_path: Path, authority: Authority
) -> None:
    settings = settings_of(tmp_path, authority) | {"TLS_CLIENT_AUTH": "required"}
    shows = authority.trust(authority.issue(x509.UniformResourceIdentifier(CI)))
    with Node(tmp_path, settings, shows) as node:
        node.start()
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{node.url}/health", verify=authority.trust())


def test_name_taken_out_of_the_file_ends_what_its_holders_do(tmp_path: Path, authority: Authority) -> None:
    settings = settings_of(tmp_path, authority)
    with Node(tmp_path, settings, authority.trust()) as node:
        node.start()
        with client_with(node, authority, x509.DNSName(VIEWER)) as client:
            with client.stream("GET", "/api/v1/changes/stream", timeout=60.0) as stream:
                assert stream.status_code == 200
                assert client.get(WHOAMI).status_code == 200
                Path(settings["TLS_CLIENT_GRANTS_FILE"]).write_text("{}")
                told = b"".join(stream.iter_bytes())
            assert b"credential-over" in told
            assert client.get(WHOAMI).status_code == 401
            assert code_of(resolve(client, a_key(tenant="team-b"))) == "unauthenticated"


def a_certificate(*names: str, expires_at: float = 2_000.0) -> ClientCertificate:
    return ClientCertificate(names, expires_at, b"mark")


def test_certificate_that_was_admitted_ends_when_its_time_is_over() -> None:
    now = 1_000.0
    admitted = Admitted(lambda: now)
    names = ClientNames(admitted)
    names.load(grants_by_name('{"DNS:ci": ["resolver:team-a/*"]}'))
    principal = names.principal_of(a_certificate("DNS:ci"))
    assert principal.credential is CredentialKind.CERTIFICATE
    assert admitted.permits_resolve(b"mark", "team-a", "prod")
    assert names.knows(principal)
    now = 2_000.0
    assert not admitted.permits_resolve(b"mark", "team-a", "prod")
    assert not names.knows(principal)
    with pytest.raises(Unauthenticated):
        names.principal_of(a_certificate("DNS:ci"))


def test_first_name_that_is_known_counts() -> None:
    names = ClientNames(Admitted(lambda: 0.0))
    names.load(grants_by_name('{"DNS:b": ["viewer:*/*"], "DNS:c": ["admin:*/*"]}'))
    found = names.principal_of(a_certificate("DNS:a", "DNS:b", "DNS:c"))
    assert found.name == "certificate:DNS:b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "must be an object"),
        ("{", "Expecting"),
        ('{"ci.example.com": []}', "must be a name such as"),
        ('{"DNS:": []}', "must be a name such as"),
        ('{"dns:ci": []}', "must be a name such as"),
        ('{"DNS:a\\nb": []}', "must be a name such as"),
        ('{"DNS:ci": "editor:team-a/*"}', "DNS:ci: must be a list"),
        ('{"DNS:ci": ["editor:team-a"]}', "DNS:ci: must be ROLE:TENANT/ENV"),
        ('{"DNS:ci": ["emperor:*/*"]}', "DNS:ci: must be ROLE:TENANT/ENV"),
        ('{"DNS:ci": [], "DNS:ci": []}', "says something twice"),
        ('{"DNS:ci": [], "DNS:CI": []}', "says something twice"),
    ],
)
def test_bad_file_of_grants_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        grants_by_name(text)
