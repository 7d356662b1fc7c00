"""The image: built, small, and run as a platform runs it: as nobody special, on a read-only root, as process 1."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.access.authority import Authority
from tests.kit import images
from tests.kit.containers import Container, Mount, Network, Plan
from tests.node import wait_until

pytestmark = [
    pytest.mark.kit,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
]
DATA = "/var/lib/traffic-manager/data"
KEY = "team-a/payments/prod/v2"
URL = "https://payments.example.com/v2"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    yield images.built_image()
    images.remove_containers()


@pytest.fixture(scope="module")
def docker(image: str) -> Any:  # Any: Docker's own document
    return images.configuration(image)


@pytest.fixture(scope="module")
def root(image: str) -> Path:
    return images.mounted(image)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def a_plan(root: Path, docker: Any, data: Path, *command: str, **environment: str) -> Plan:
    """Return how a platform runs the image: with one volume, and a pepper in a file."""
    data.mkdir(exist_ok=True)
    uid, gid = map(int, docker["User"].split(":"))
    os.chown(data, uid, gid)
    pepper = data.parent / "pepper"
    pepper.write_text("5f0c1b7a" * 8)
    return Plan(
        root,
        [*docker["Entrypoint"], *(command or docker["Cmd"])],
        dict(item.split("=", 1) for item in docker["Env"])
        | {"AUTH_PEPPER_FILE": "/run/secrets/pepper"}
        | environment,
        docker["User"],
        docker["WorkingDir"],
        is_read_only=True,
        mounts=[Mount(DATA, data), Mount("/run/secrets/pepper", pepper, is_read_only=True)],
    )


def test_it_is_less_than_200_mb_beyond_its_base(image: str) -> None:
    assert 50 < images.megabytes_of(image) - images.megabytes_of(images.BASE) < 200


def test_it_is_nobody_special(docker: Any) -> None:
    assert docker["User"] == "10001:10001"
    assert "ENVIRONMENT=production" in docker["Env"]


def test_nothing_in_it_can_install_or_build(root: Path) -> None:
    programs = {path.name for path in (root / "opt/traffic-manager/bin").iterdir()}
    assert "traffic-manager" in programs
    assert {name for name in programs if name.startswith(("pip", "uv-", "wheel"))} == set()
    assert not (root / "opt/pip").exists()
    assert not (root / "source").exists()


def test_it_answers_a_resolve_and_ends_on_sigterm(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    plan = a_plan(root, docker, tmp_path / "data", DRAIN_SECONDS="0")
    space = network.attach("node", 2)
    with Container(plan, tmp_path / "node", space, network.hosts) as node:
        node.wait_until_healthy(docker["Healthcheck"]["Test"])
        made = node.run("traffic-manager", "keys", "create", "--role", "admin", "--owner", "ops")
        key = {"TM_API_KEY": made.stdout.strip()}
        assert node.run("traffic-manager", "routes", "put", KEY, URL, environment=key).returncode == 0
        assert node.run("traffic-manager", "resolve", KEY, environment=key).stdout == f"{URL}\n"
        assert node.run("traffic-manager", "resolve", KEY).returncode != 0
        assert (
            Path(f"/proc/{node.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
        )
        assert node.stop() == 0


def test_on_a_laptop_it_asks_nobody_for_a_key(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    plan = a_plan(
        root, docker, tmp_path / "data", ENVIRONMENT="development", API_HOST="0.0.0.0", AUTH_PEPPER_FILE=""
    )
    with Container(plan, tmp_path / "node", network.attach("node", 2), network.hosts) as node:
        node.wait_until_healthy(docker["Healthcheck"]["Test"])
        assert node.run("traffic-manager", "routes", "put", KEY, URL).returncode == 0


def test_it_writes_nowhere_but_to_its_volume(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    space = network.attach("node", 2)
    with Container(a_plan(root, docker, tmp_path / "data"), tmp_path / "node", space, network.hosts) as node:
        node.wait_until_healthy(docker["Healthcheck"]["Test"])
        refused = node.run(
            "sh", "-c", "touch /opt/traffic-manager/x || touch /tmp/x || touch /var/lib/traffic-manager/x"
        )
        assert refused.stderr.count("Read-only file system") == 3
        written = {path.name for path in (tmp_path / "data").iterdir()}
        assert "traffic-manager.db" in written


def test_it_serves_as_whichever_user_a_platform_gives_it(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    """As OpenShift does: a user that no file of the image knows, of the group root, which owns the volume."""
    plan = replace(a_plan(root, docker, tmp_path / "data"), user="1000650000:0")
    os.chown(tmp_path / "data", 0, 0)
    (tmp_path / "data").chmod(0o770)
    with Container(plan, tmp_path / "node", network.attach("node", 2), network.hosts) as node:
        node.wait_until_healthy(docker["Healthcheck"]["Test"])
        assert node.run("traffic-manager", "keys", "create", "--role", "admin").returncode == 0


def test_with_tls_it_is_healthy_for_whoever_trusts_its_certificate(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    settings = authority.settings_for_a_server()
    settings |= {"TM_CA_FILE": str(authority.file), "TM_URL": "https://localhost:8000"}
    for name in ("TLS_CERT_FILE", "TLS_KEY_FILE"):
        Path(settings[name]).chmod(0o644)
    plan = a_plan(root, docker, tmp_path / "data", **settings)
    plan = replace(plan, mounts=[*plan.mounts, *(Mount(f, Path(f), True) for f in _files(settings))])
    with Container(plan, tmp_path / "node", network.attach("node", 2), network.hosts) as node:
        node.wait_until_healthy(docker["Healthcheck"]["Test"])


def _files(settings: dict[str, str]) -> list[str]:
    return [value for name, value in settings.items() if name.endswith("_FILE")]


def test_it_is_unhealthy_while_it_drains_and_answers_all_the_same(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    plan = a_plan(root, docker, tmp_path / "data", DRAIN_SECONDS="60")
    with Container(plan, tmp_path / "node", network.attach("node", 2), network.hosts) as node:
        node.wait_until_healthy(docker["Healthcheck"]["Test"])
        os.kill(node.pid, signal.SIGTERM)
        wait_until(lambda: _told(node, "/health/ready") == "503", 30.0, "that it is not ready")
        assert node.run("/bin/sh", "-c", docker["Healthcheck"]["Test"][1]).returncode == 1
        assert _told(node, "/health/live") == "200"


def _told(node: Container, path: str) -> str:
    """Return the status that *node* answers with to a client beside it."""
    asked = (
        "import sys, http.client as h; c = h.HTTPConnection('127.0.0.1', 8000); c.request('GET', sys.argv[1]);"
        "print(c.getresponse().status)"
    )
    return node.run("python3", "-c", asked, path).stdout.strip()


def test_without_a_pepper_it_does_not_start(
    root: Path, docker: Any, network: Network, tmp_path: Path
) -> None:
    plan = a_plan(root, docker, tmp_path / "data", AUTH_PEPPER_FILE="")
    with Container(plan, tmp_path / "node", network.attach("node", 2), network.hosts) as node:
        assert node.wait() == 1
        assert "AUTH_PEPPER: must be set" in node.log()
