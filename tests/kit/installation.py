"""What compose.yaml says, carried out without a container engine: each service is a container of `containers`, with
the commands, files, secrets, addresses and health checks as they stand there.

Traffic Manager runs from its image. For the images of others stand this machine's own programs, started as those do.
Grafana has no program here.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.kit import images
from tests.kit.containers import Container, Mount, Network, Plan
from tests.kit.tools import tool
from tests.servers.programs import ROOT, kafka

PATH = "/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
Service = dict[str, Any]  # Any: as docker-compose writes it


@dataclass(frozen=True)
class StandIn:
    """How the image of a service starts what compose.yaml says, with this machine's programs: *entry* comes before
    its command, or does the whole of it."""

    user: str
    entry: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    prepare: str = ""
    mounts: Sequence[Mount] = ()


_POSTGRES = """
initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256 > /dev/null
echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
pg_ctl --options="-c listen_addresses=''" --wait start > /dev/null
createdb --username=postgres "$POSTGRES_DB"
bash /docker-entrypoint-initdb.d/roles.sh
pg_ctl --mode=fast --wait stop > /dev/null
exec postgres -c listen_addresses='*'
"""
_KAFKA = """
java -cp '/opt/kafka/libs/*' kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config
exec java $KAFKA_HEAP_OPTS -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*' kafka.Kafka \
    /opt/kafka/config/server.properties
"""
_KAFKA_FOLDERS = """
mkdir -p /etc/kafka/docker /opt/kafka/config
touch /etc/kafka/docker/server.properties /etc/kafka/docker/log4j2.yaml /etc/kafka/docker/tools-log4j2.yaml
chmod 777 /opt/kafka/config
"""


def _stand_ins() -> dict[str, StandIn]:
    return {
        "postgres": StandIn(
            "postgres",
            ["bash", "-euc", _POSTGRES],
            {"LANG": "C.UTF-8", "PGDATA": "/var/lib/postgresql/data", "POSTGRES_USER": "postgres"},
        ),
        "redis": StandIn("redis", [], folder="/data"),
        "kafka": StandIn(
            "nobody",
            ["bash", "-euc", _KAFKA],
            prepare=_KAFKA_FOLDERS,
            mounts=[Mount("/opt/kafka/libs", kafka() / "libs", is_read_only=True)],
        ),
        "load-balancer": StandIn(
            "haproxy", ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
        ),
        "prometheus": StandIn(
            "nobody", ["/bin/prometheus"], folder="/prometheus", prepare="mkdir -p /prometheus"
        ),
        "client": StandIn("nobody", ["sleep", "infinity"]),
    }


def services(project: Path) -> dict[str, Service]:
    """Return what docker-compose makes of the compose.yaml in *project*."""
    done = subprocess.run(
        [str(tool("docker-compose")), "config"],
        cwd=project,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Service] = yaml.safe_load(done.stdout)["services"]
    return found


def a_project(folder: Path) -> Path:
    """Return a copy of what an operator gets, with secrets of its own."""
    folder.mkdir()
    shutil.copy(ROOT / "compose.yaml", folder)
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([folder / "deploy/compose/secrets.sh"], check=True)
    return folder


class Installation:
    """The services of *project*, started one by one, and a `client` beside them that trusts what is in `/trust`."""

    def __init__(self, project: Path, folder: Path, image: str) -> None:
        self.project = project
        trust = f"{project}/deploy/compose/secrets:/trust:ro"
        self.services = services(project) | {"client": {"volumes": [trust]}}
        self._folder = folder
        self._docker = images.configuration(image)
        self._root = images.mounted(image)
        self._stand_ins = _stand_ins()
        self._network = Network()
        self._spaces: dict[str, str] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        self._opened.enter_context(self._network)
        for number, (name, service) in enumerate(sorted(self.services.items()), start=20):
            asked = (((service.get("networks") or {}).get("front")) or {}).get("ipv4_address")
            self._spaces[name] = self._network.attach(
                name, int(asked.rpartition(".")[2]) if asked else number
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def start(self, name: str, command: Sequence[str] | None = None) -> Container:
        """Start a service as compose.yaml says, or with another *command*, as `docker compose run` does."""
        plan = self.plan(name)
        if command is not None:
            plan = replace(plan, command=[*self._docker["Entrypoint"], *command])
        place = self._folder / f"{name}-{len(list(self._folder.iterdir()))}"
        container = Container(plan, place, self._spaces[name], self._network.hosts)
        return self._opened.enter_context(container)

    def health_check(self, name: str) -> list[str]:
        """Return the test of the service's health check: its own, or that of its image."""
        own: Service = self.services[name].get("healthcheck") or {}
        check: list[str] = own.get("test") or self._docker["Healthcheck"]["Test"]
        return [word.replace("$$", "$") for word in check]

    def plan(self, name: str) -> Plan:
        """Return what the service's container is told."""
        service = self.services[name]
        mounts = [*self._volumes(name), *_secrets(self.project, service)]
        mounts += [Mount(target) for target in service.get("tmpfs", [])]
        plan = self._plan_of_ours(service) if self._is_ours(name) else self._plan_of_others(name, service)
        return replace(plan, is_read_only=service.get("read_only", False), mounts=[*mounts, *plan.mounts])

    def _is_ours(self, name: str) -> bool:
        return "build" in self.services[name]

    def _plan_of_ours(self, service: Service) -> Plan:
        docker = self._docker
        return Plan(
            self._root,
            [*docker["Entrypoint"], *service.get("command", docker["Cmd"])],
            dict(item.split("=", 1) for item in docker["Env"]) | _environment(service),
            docker["User"],
            docker["WorkingDir"],
        )

    def _plan_of_others(self, name: str, service: Service) -> Plan:
        image = self._stand_ins[name]
        user = pwd.getpwnam(service.get("user", image.user))
        return Plan(
            Path("/"),
            [*image.entry, *service.get("command", [])],
            {"PATH": PATH, "HOME": "/", **image.environment, **_environment(service)},
            f"{user.pw_uid}:{user.pw_gid}",
            image.folder,
            prepare=image.prepare,
            mounts=image.mounts,
        )

    def _volumes(self, name: str) -> list[Mount]:
        mounts = []
        for volume in self.services[name].get("volumes", []):
            source, target, mode = volume.split(":")
            path = Path(source) if source.startswith("/") else self._named_volume(source, name)
            mounts.append(Mount(target, path, mode == "ro"))
        return mounts

    def _named_volume(self, volume: str, name: str) -> Path:
        """Return the folder of a volume, which belongs to the user of the image as Docker sees to it."""
        path = self._folder.parent / "volumes" / volume
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._is_ours(name):
            uid, gid = map(int, self._docker["User"].split(":"))
        else:
            uid, gid = pwd.getpwnam(self._stand_ins[name].user)[2:4]
        os.chown(path, uid, gid)
        return path


def _environment(service: Service) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def _secrets(project: Path, service: Service) -> list[Mount]:
    names = [secret["source"] for secret in service.get("secrets", [])]
    return [Mount(f"/run/secrets/{name}", project / "deploy/compose/secrets" / name, True) for name in names]
