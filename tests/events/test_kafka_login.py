"""A Kafka that asks for a login, over TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # re-exported without saying so
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from tests.events.fakes import a_key
from tests.events.relaying import Line, kafka_settings
from tests.servers import KafkaServer
from tests.servers.ports import free_port
from traffic_manager.config.settings import KafkaSettings
from traffic_manager.events.delivery import KafkaUnavailable
from traffic_manager.events.kafka_probe import KafkaProbe

pytestmark = pytest.mark.servers

PASSWORD = "relay-password"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and its certificate, which signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    )
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


@pytest.fixture(scope="module")
def settings(certificate: Path) -> Iterator[KafkaSettings]:
    """Yield the settings for a Kafka that wants a login, over TLS, on a listener of its own."""
    port = free_port()
    server = KafkaServer()
    server.settings |= login_listener(server, port, certificate)
    with server:
        add_scram_user(server)
        yield kafka_settings(
            bootstrap_servers=f"127.0.0.1:{port}",
            security_protocol="SASL_SSL",
            sasl_username="relay",
            sasl_password=SecretStr(PASSWORD),
            ssl_ca_location=certificate.with_name("cert.pem"),
        )


def login_listener(server: KafkaServer, port: int, certificate: Path) -> dict[str, str]:
    """Return the server's settings for it."""
    plain, login = f"PLAINTEXT://{server.bootstrap_servers}", f"LOGIN://127.0.0.1:{port}"
    modules = "org.apache.kafka.common.security"
    return {
        "listeners": f"{plain},{login},CONTROLLER://127.0.0.1:{server.controller_port}",
        "advertised.listeners": f"{plain},{login}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOGIN:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.login.plain.sasl.jaas.config": (
            f'{modules}.plain.PlainLoginModule required user_relay="{PASSWORD}";'
        ),
        "listener.name.login.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        "listener.name.login.ssl.keystore.type": "PEM",
        "listener.name.login.ssl.keystore.location": str(certificate),
    }


def add_scram_user(server: KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    mechanism = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    user = UserScramCredentialUpsertion("relay", mechanism, PASSWORD.encode())
    admin.alter_user_scram_credentials([user])["relay"].result(10)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_events_are_sent_after_a_login(settings: KafkaSettings, mechanism: str) -> None:
    topic = f"after-{mechanism}"
    line = Line(settings.model_copy(update={"sasl_mechanism": mechanism, "route_events_topic": topic}))
    line.database.change(a_key())
    with line.relaying():
        assert line.is_published_in(20)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"sasl_password": SecretStr("wrong")}, id="wrong password"),
        pytest.param({"ssl_ca_location": None}, id="unknown authority"),
        pytest.param({"security_protocol": "SASL_PLAINTEXT"}, id="no TLS"),
    ],
)
def test_without_the_right_login_or_certificate_nothing_is_sent(
    settings: KafkaSettings, wrong: dict[str, object]
) -> None:
    line = Line(settings.model_copy(update=wrong))
    line.database.change(a_key())
    with line.relaying():
        assert not line.is_published_in(2)
    with pytest.raises(KafkaUnavailable):
        KafkaProbe(line.settings).check(1)
