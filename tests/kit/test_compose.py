"""compose.yaml: docker-compose takes it, and everything that stands in it works with the programs that it is for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml

from tests.kit import images
from tests.kit.containers import Container
from tests.kit.installation import Installation, Service, a_project, services
from tests.kit.tools import tool
from tests.node import wait_until
from tests.servers.programs import ROOT

pytestmark = [
    pytest.mark.kit,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
]
NODES = ("traffic-manager-1", "traffic-manager-2")
HERE = {"postgres", "redis", "kafka", "load-balancer", "prometheus", *NODES}
PUBLIC = "https://localhost:8443"
ROUTE = "/api/v1/routes/team-a/payments/prod/v2"
RESOLVE = "/api/v1/routes/resolve?tenant=team-a&service=payments&env=prod&version=v2"


class Running:
    """The installation as its first start leaves it, and an administrator's key."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.containers: dict[str, Container] = {}
        for name in ("postgres", "redis", "kafka"):
            self.containers[name] = installation.start(name)
        self._wait_for("postgres")
        self.migrated = installation.start("migrate")
        assert self.migrated.wait() == 0, self.migrated.log()
        self.admin = self._a_key("admin", "ops")
        monitor = self._a_key("monitor", "prometheus")
        (installation.project / "deploy/compose/secrets/metrics_key").write_text(f"{monitor}\n")
        for name in (*NODES, "load-balancer", "prometheus", "client"):
            self.containers[name] = installation.start(name)
        for name in HERE:
            self._wait_for(name)

    def curl(self, path: str, *options: str, key: str | None = None) -> str:
        """Return what a client beside the load balancer gets from it: the body, and the status in a line below."""
        shown = ["--header", f"Authorization: Bearer {self.admin if key is None else key}"]
        asked = ["--connect-to", "localhost:8443:load-balancer:8443", "--write-out", "\n%{http_code}"]
        done = self.containers["client"].run(
            "curl",
            "--silent",
            "--cacert",
            "/trust/tls.crt",
            *asked,
            *shown,
            *options,
            PUBLIC + path,
            user="0:0",
        )
        return done.stdout

    def json(self, path: str) -> Any:  # Any: a document
        """Return the document at *path*."""
        body, _, status = self.curl(path).rpartition("\n")
        assert status == "200", body
        return json.loads(body)

    def prometheus(self, path: str) -> Any:  # Any: a document of Prometheus's
        """Return the data that Prometheus answers with."""
        told = self.containers["prometheus"].run("curl", "--silent", f"http://127.0.0.1:9090{path}").stdout
        return json.loads(told)["data"] if told else None

    def _wait_for(self, name: str) -> None:
        self.containers[name].wait_until_healthy(self.installation.health_check(name))

    def _a_key(self, role: str, owner: str) -> str:
        made = self.installation.start("migrate", ["keys", "create", "--role", role, "--owner", owner])
        assert made.wait() == 0, made.log()
        (key,) = re.findall(r"^tmk_\S+$", made.log(), re.MULTILINE)
        return str(key)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("compose")
    project = a_project(folder / "project")
    (folder / "containers").mkdir()
    with Installation(project, folder / "containers", images.built_image()) as installation:
        yield Running(installation)
    images.remove_containers()


def test_docker_compose_takes_it(tmp_path: Path) -> None:
    assert services(a_project(tmp_path / "project")).keys() == {*HERE, "migrate", "grafana"}


def test_docker_compose_of_today_takes_it_and_reads_the_same(tmp_path: Path) -> None:
    project = a_project(tmp_path / "project")
    read = subprocess.run(
        [tool("cmd"), "compose.yaml"], cwd=project, capture_output=True, text=True, check=True
    )
    newer, older = yaml.safe_load(read.stdout)["services"], services(project)
    assert newer.keys() == older.keys()
    assert {name: _wanted(service) for name, service in newer.items()} == {
        name: _wanted(service) for name, service in older.items()
    }


def test_every_service_but_the_step_has_a_health_check_and_comes_back(tmp_path: Path) -> None:
    found = services(a_project(tmp_path / "project"))
    assert found.pop("migrate")["restart"] == "no"
    for name, service in found.items():
        assert service["restart"] == "unless-stopped", name
        assert "build" in service or service["healthcheck"]["test"], name


def test_it_holds_no_secret_and_secrets_are_not_committed(tmp_path: Path) -> None:
    for name, service in services(a_project(tmp_path / "project")).items():
        plain = [
            variable
            for variable in service.get("environment", {})
            if re.search("PASSWORD|PEPPER|KEY", variable)
        ]
        assert all(variable.endswith("_FILE") for variable in plain), name
    made = "deploy/compose/secrets/pepper"
    assert subprocess.run(["git", "check-ignore", "--quiet", made], cwd=ROOT, check=False).returncode == 0


def test_secrets_are_kept_from_others_and_made_once(tmp_path: Path) -> None:
    project = a_project(tmp_path / "project")
    folder = project / "deploy/compose/secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run([project / "deploy/compose/secrets.sh"], check=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_route_goes_in_and_out_through_the_load_balancer(running: Running) -> None:
    put = running.curl(ROUTE, "--request", "PUT", "--json", '{"url": "https://payments.example.com/v2"}')
    assert put.endswith(("\n200", "\n201"))
    assert running.json(RESOLVE)["url"] == "https://payments.example.com/v2"
    assert running.curl(RESOLVE, key="nobody").endswith("\n401")


def test_the_log_says_from_where_a_change_was_asked_for(running: Running) -> None:
    put = running.curl(ROUTE, "--request", "PUT", "--json", '{"url": "https://payments.example.com/v3"}')
    assert put.endswith(("\n200", "\n201"))
    address = running.containers["client"].run("hostname", "-I").stdout.strip()
    assert running.json(f"{ROUTE}/history")["changes"][0]["address"] == address


def test_metrics_are_not_for_the_public(running: Running) -> None:
    assert running.curl("/metrics").endswith("\n404")


def test_every_part_is_healthy_for_the_nodes(running: Running) -> None:
    for node in NODES:
        told = running.containers[node].run("traffic-manager", "health", "--output", "json").stdout
        assert {check["status"] for check in json.loads(told)["checks"].values()} == {"healthy"}


def test_prometheus_reads_both_nodes_and_knows_the_rules(running: Running) -> None:
    def up() -> bool:
        answer = running.prometheus("/api/v1/query?query=up")
        return bool(answer) and [sample["value"][1] for sample in answer["result"]] == ["1", "1"]

    wait_until(up, 60, "two targets that are up")
    assert running.prometheus("/api/v1/rules")["groups"]


def test_changes_reach_kafka(running: Running) -> None:
    put = running.curl(ROUTE, "--request", "PUT", "--json", '{"url": "https://payments.example.com/v4"}')
    assert put.endswith(("\n200", "\n201"))
    wait_until(lambda: _published(running) > 0, 90, "an event in Prometheus")


def _published(running: Running) -> float:
    answer = running.prometheus("/api/v1/query?query=sum(kafka_events_published_total)")
    return float(answer["result"][0]["value"][1]) if answer and answer["result"] else 0.0


def test_nodes_cannot_rewrite_the_log(running: Running) -> None:
    secret = running.installation.project / "deploy/compose/secrets/db_password"
    as_node = {"PGPASSWORD": secret.read_text().strip(), "PGUSER": "traffic_manager", "PGDATABASE": "routes"}
    statement = ["psql", "--host=127.0.0.1", "--command", "update changes set actor = 'nobody'"]
    done = running.containers["postgres"].run(*statement, environment=as_node)
    assert "permission denied for table changes" in done.stderr


def test_the_step_checks_the_log_too(running: Running) -> None:
    verified = running.installation.start("migrate", ["verify"])
    assert verified.wait() == 0, verified.log()


def test_postgres_can_be_dumped_where_it_runs(running: Running) -> None:
    dumped = running.containers["postgres"].run("pg_dump", "--username=postgres", "--schema-only", "routes")
    assert "CREATE TABLE public.routes" in dumped.stdout


def test_the_load_balancer_takes_another_certificate_up(running: Running) -> None:
    folder = running.installation.project / "deploy/compose/secrets"
    in_use = folder / "tls.pem"
    before = (folder / "tls.crt").read_bytes()
    kept = in_use.stat().st_ino
    for name in ("tls.pem", "tls.crt", "tls.key"):
        (folder / name).rename(folder / f"old-{name}")
    subprocess.run([folder.parent / "secrets.sh"], check=True)
    made = in_use.read_bytes()
    (folder / "old-tls.pem").replace(in_use)
    in_use.write_bytes(made)
    assert in_use.stat().st_ino == kept  # a mount follows the file, not its name
    assert (folder / "tls.crt").read_bytes() != before
    assert not running.curl(RESOLVE).endswith("\n200")
    os.kill(running.containers["load-balancer"].pid, signal.SIGUSR2)
    wait_until(lambda: running.curl(RESOLVE).endswith("\n200"), 30, "trust in the new certificate")


def test_redis_keeps_its_password_off_the_list_of_processes(running: Running) -> None:
    redis = running.containers["redis"]
    assert "redis-server" in Path(f"/proc/{redis.pid}/cmdline").read_text()
    password = (running.installation.project / "deploy/compose/secrets/redis_password").read_text().strip()
    assert password not in Path(f"/proc/{redis.pid}/cmdline").read_text()
    assert "NOAUTH" in redis.run("redis-cli", "ping").stdout


def test_a_node_that_stops_is_not_noticed_and_all_end_well(running: Running) -> None:
    failures: list[str] = []
    answered, is_over = Event(), Event()

    def ask() -> None:
        while not is_over.is_set():
            answer = running.curl(RESOLVE)
            if not answer.endswith("\n200"):
                failures.append(answer)
            answered.set()

    asking = Thread(target=ask)
    asking.start()
    try:
        assert answered.wait(30)
        assert running.containers[NODES[0]].stop() == 0
        answered.clear()
        assert answered.wait(30)
    finally:
        is_over.set()
        asking.join()
    assert failures == []
    assert _ends(
        running.containers, (NODES[1], "load-balancer", "redis", "prometheus", "kafka", "postgres")
    ) == {
        NODES[1]: 0,
        "load-balancer": 0,
        "redis": 0,
        "prometheus": 0,
        "kafka": 143,  # as Java ends on SIGTERM, having closed everything
        "postgres": 0,
    }


def _wanted(service: Service) -> list[object]:
    """Return what a reader of the file could understand otherwise than another."""
    awaited = {name: how["condition"] for name, how in service.get("depends_on", {}).items()}
    given = {name: str(value) for name, value in service.get("environment", {}).items()}
    secrets = [secret["source"] for secret in service.get("secrets", [])]
    plain = ("image", "command", "user", "read_only", "cap_drop", "security_opt", "restart")
    return [awaited, given, secrets, *map(service.get, plain)]


def _ends(containers: Mapping[str, Container], names: tuple[str, ...]) -> dict[str, int]:
    return {name: containers[name].stop() for name in names}
