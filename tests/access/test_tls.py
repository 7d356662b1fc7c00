"""TLS with real handshakes: what is spoken, for how long, renewed files, and what a server does not start with."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.access.authority import SERVER, Authority
from tests.cli.test_keys import at, beside
from tests.monitoring.exposition import values
from tests.node import Node, a_key, a_route, resolve, wait_until
from tests.servers import PostgresServer
from tests.servers.ports import HOST
from traffic_manager.api.certificates import load
from traffic_manager.config.settings import TlsSettings
from traffic_manager.errors import StartRefused

FAILED = "tm_tls_handshakes_failed_total"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom everybody trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Node]:
    """A server that speaks TLS and asks nobody who they are."""
    settings = authority.settings_for_a_server()
    with Node(tmp_path_factory.mktemp("tls"), settings, authority.trust()) as node:
        yield node.start()


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx2.Client]:
    with node.client() as client:
        yield client


def shaken(node: Node, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a connection of its own."""
    return context.wrap_socket(
        socket.create_connection((HOST, node.port), timeout=10.0), server_hostname=HOST
    )


def told(client: httpx2.Client, sample: str) -> float:
    """Return what the metrics say."""
    return values(client.get("/metrics").content)[sample]


def failures(client: httpx2.Client, reason: str) -> float:
    return told(client, f'{FAILED}{{reason="{reason}"}}')


def test_everything_goes_over_tls(client: httpx2.Client) -> None:
    key = a_key()
    assert client.post("/api/v1/routes", json=a_route()).status_code == 201
    answers = [resolve(client, key) for _ in range(3)]  # the documented way, then the lane
    assert [answer.json()["url"] for answer in answers] == [a_route()["url"]] * 3
    for answer in (*answers, client.get("/health/ready"), client.get("/nowhere")):
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_stream_goes_over_tls(client: httpx2.Client) -> None:
    with client.stream("GET", "/api/v1/changes/stream", params={"include": "snapshot"}) as answer:
        assert answer.status_code == 200
        assert b"event" in next(answer.iter_bytes())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_versions_are_spoken(node: Node, authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.trust()
    context.minimum_version = context.maximum_version = version
    with shaken(node, context) as connection:
        assert connection.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_and_weak_ciphers_are_refused(node: Node, authority: Authority) -> None:
    old, weak = authority.trust(), authority.trust()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA:AES256-GCM-SHA384")
    for context in (old, weak):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shaken(node, context)


def test_plain_request_is_cut_and_counted(node: Node, client: httpx2.Client) -> None:
    before = failures(client, "refused")
    with socket.create_connection((HOST, node.port), timeout=10.0) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in _all_of(connection)
    wait_until(lambda: failures(client, "refused") == before + 1)


def test_silent_clients_are_let_go_and_hold_nobody_up(node: Node, client: httpx2.Client) -> None:
    before = failures(client, "too-slow")
    with ExitStack() as silent:
        connections = [
            silent.enter_context(socket.create_connection((HOST, node.port), timeout=30.0)) for _ in range(50)
        ]
        connections[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a hello
        assert client.get("/health").status_code == 200
        assert [_all_of(connection) for connection in connections] == [b""] * 50
    wait_until(lambda: failures(client, "too-slow") == before + 50)


def test_silent_clients_of_one_address_leave_room_for_others(tmp_path: Path, authority: Authority) -> None:
    settings = {**authority.settings_for_a_server(), "API_MAX_CONNECTIONS_PER_ADDRESS": "4"}
    with Node(tmp_path, settings, authority.trust()) as node, node.client() as other, ExitStack() as silent:
        node.start()

        def is_one_cut() -> bool:
            for _ in range(40):  # more than are told that they are too many
                came_from = ("127.0.0.2", 0)
                connection = socket.create_connection((HOST, node.port), 30.0, came_from)
                silent.enter_context(connection)
            return failures(other, "too-many") > 0

        wait_until(is_one_cut)
        with node.client() as another:
            assert another.get("/health").status_code == 200


def test_refusal_of_a_malformed_request_arrives(node: Node, authority: Authority) -> None:
    with shaken(node, authority.trust()) as connection:
        connection.sendall(b"GET /\x00 HTTP/9\r\n\r\n")
        answer = _all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"urn:traffic-manager:malformed-request" in answer


def test_command_line_trusts_whom_it_is_told_to(node: Node, authority: Authority) -> None:
    assert at(node, "health", TM_CA_FILE=str(authority.file)).code == 0
    refused = at(node, "health")
    assert refused.code == 5
    assert "--ca-file" in refused.err
    assert at(node, "health", TM_CA_FILE=str(node.folder / "missing")).code == 2


def test_load_generator_speaks_tls(node: Node, authority: Authority) -> None:
    load = ("--rate", "20", "--changes", "10", "--watchers", "1", "--duration", "0.5", "--warm-up", "0")
    result = at(node, "bench", *load, "--output", "json", TM_CA_FILE=str(authority.file))
    counts = [(row["request"], row["status"], row["count"]) for row in result.document["requests"]]
    assert counts == [("resolve", "200", 10), ("change", "200", 5), ("change seen", "200", 5)], result.err


@pytest.mark.servers
def test_every_worker_speaks_tls_and_takes_a_renewed_certificate(
    tmp_path: Path, authority: Authority, postgres: PostgresServer
) -> None:
    settings = {**authority.settings_for_a_server(), "API_WORKERS": "2", "DRAIN_SECONDS": "0"}
    settings |= postgres.create_database("tls_workers")
    with Node(tmp_path, settings, authority.trust()) as node:
        node.start("--migrate")
        first = serial_of(node, authority)
        renewed = authority.issue(*SERVER, is_server=True, lifetime=timedelta(days=3))
        # As a renewal that is not careful does it: for a moment the two do not fit.
        shutil.copy(renewed[0], settings["TLS_CERT_FILE"])
        shutil.copy(renewed[1], settings["TLS_KEY_FILE"])
        new = x509.load_pem_x509_certificate(renewed[0].read_bytes()).serial_number
        assert new != first
        with node.client() as client:
            wait_until(lambda: told(client, 'tm_tls_reloads_total{outcome="ok"}') >= 2, 60.0)
            assert told(client, "tm_tls_certificate_expires_seconds") > 0
        assert {serial_of(node, authority) for _ in range(20)} == {new}
        assert node.stop() == 0


def test_bad_renewed_file_leaves_the_good_one_in_use(tmp_path: Path, authority: Authority) -> None:
    settings = authority.settings_for_a_server()
    with Node(tmp_path, settings, authority.trust()) as node:
        node.start()
        serial = serial_of(node, authority)
        Path(settings["TLS_CERT_FILE"]).write_text("nothing of use")
        wait_until(lambda: "TLS_CERT_FILE: holds no certificate" in node.log(), 30.0)
        assert serial_of(node, authority) == serial
        with node.client() as client:
            assert values(client.get("/metrics").content)['tm_tls_reloads_total{outcome="failed"}'] == 1


def serial_of(node: Node, authority: Authority) -> int:
    """Return the number of the certificate that a new connection is shown."""
    with shaken(node, authority.trust()) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_stop_ends_connections_with_tls_at_once(tmp_path: Path, authority: Authority) -> None:
    with Node(tmp_path, authority.settings_for_a_server(), authority.trust()) as node:
        node.start()
        with node.client() as client:
            assert client.get("/health").status_code == 200
            assert node.stop() == 0


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> dict[str, Path]:
    """Good ones, by the field of the setting."""
    grants = tmp_path / "grants.json"
    grants.write_text('{"DNS:ci.example.com": ["editor:team-a/*"]}')
    certificate, key = authority.issue(*SERVER, is_server=True)
    named = {"cert_file": certificate, "key_file": key, "client_ca_file": authority.file}
    return named | {"client_grants_file": grants}


def test_good_files_are_taken(files: dict[str, Path]) -> None:
    assert set(load(TlsSettings.model_validate(files)).grants) == {"DNS:ci.example.com"}


@pytest.mark.parametrize("field", ["cert_file", "key_file", "client_ca_file", "client_grants_file"])
@pytest.mark.parametrize(
    "content", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "{"]
)
def test_bad_file_refuses_the_start_by_its_setting(
    files: dict[str, Path], tmp_path: Path, field: str, content: str | None
) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_text(content)
    with pytest.raises(StartRefused, match=f"^TLS_{field.upper()}: "):
        load(TlsSettings.model_validate({**files, field: bad}))


def test_key_of_another_certificate_refuses_the_start(files: dict[str, Path], authority: Authority) -> None:
    other = authority.issue(*SERVER, is_server=True)[1]
    with pytest.raises(StartRefused, match=r"^TLS_KEY_FILE: is not the key"):
        load(TlsSettings.model_validate({**files, "key_file": other}))


def test_encrypted_key_refuses_the_start_and_asks_nobody(files: dict[str, Path], tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(files["key_file"].read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a password"),
        )
    )
    with pytest.raises(StartRefused, match=r"^TLS_KEY_FILE: .*encrypted"):
        load(TlsSettings.model_validate({**files, "key_file": encrypted}))


def test_refusal_ends_the_server_with_its_reason(tmp_path: Path, files: dict[str, Path]) -> None:
    settings = {"TLS_CERT_FILE": str(files["cert_file"]), "TLS_KEY_FILE": str(tmp_path / "missing")}
    with Node(tmp_path, settings) as node:
        node.start(wait_ready=False)
        assert node.wait_for_exit() == 1
        assert "TLS_KEY_FILE: cannot be read" in node.log()
        assert "listening" not in node.log()
        refused = beside(node, "config", "check")
    assert (refused.code, "TLS_KEY_FILE: cannot be read" in refused.err) == (1, True)


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received
