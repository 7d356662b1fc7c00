"""`python -m tests.servers.install`: bring the programs that the test servers need.

On Debian and its kin, as root, packages are installed; elsewhere it says what to install. Kafka comes from
Maven, by its coordinates, and the OpenID provider from npm, both into an ignored folder of the repository. It needs
nothing but Python itself.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import programs
from .programs import (
    KAFKA_FOLDER,
    KAFKA_VERSION,
    OIDC_FOLDER,
    OIDC_VERSION,
    VEGETA,
    VEGETA_FOLDER,
    NotInstalled,
)

COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
# Kafka itself, and a logger that writes to standard error.
POM = f"""\
<project><modelVersion>4.0.0</modelVersion>
<groupId>traffic-manager</groupId><artifactId>test-kafka</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""
# `format` wants a whole configuration, although it only reads the roles, the node and the folder.
FORMAT_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.quorum.voters=1@127.0.0.1:9093
log.dirs={data}
"""
ANY_CLUSTER_ID = "dHJhZmZpYy1tYW5hZ2VyLQ"


def main() -> int:
    problems = [
        problem
        for step in (_redis, _postgres, _pgbouncer, _kafka, _oidc_provider, _prometheus)
        if (problem := _problem_of(step))
    ]
    if shutil.which("kcat") is None:
        print("kcat: not found; the tests do without, but it is handy to look into topics")
    # Only a row of `make faults-full` needs it.
    for problem in filter(None, [*problems, _problem_of(_cc)]):
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _problem_of(step: Callable[[], Path]) -> str:
    """Carry out *step*, say what is there, and return what is missing."""
    try:
        print(f"{step.__name__.strip('_')}: {step()}", flush=True)
    except NotInstalled as missing:
        return str(missing)
    return ""


def _redis() -> Path:
    return found_or_installed(programs.redis_server, "redis-server")


def _postgres() -> Path:
    return found_or_installed(programs.postgres, "postgresql")


def _pgbouncer() -> Path:
    return found_or_installed(programs.pgbouncer, "pgbouncer")


def _prometheus() -> Path:
    return found_or_installed(programs.prometheus, "prometheus")


def _cc() -> Path:
    return found_or_installed(programs.cc, "gcc", "libc6-dev")


def vegeta() -> Path:
    """Return the generator of load that one row of `make faults-full` needs, built now if it was not before. Raises
    NotInstalled."""
    with suppress(NotInstalled):
        return programs.vegeta()
    VEGETA_FOLDER.mkdir(parents=True, exist_ok=True)
    _run([str(programs.go()), "install", VEGETA], VEGETA_FOLDER, {"GOBIN": str(VEGETA_FOLDER)})
    return programs.vegeta()


def _kafka() -> Path:
    found_or_installed(programs.java, "openjdk-17-jdk-headless", "default-jdk-headless")
    if not KAFKA_FOLDER.is_dir():
        found_or_installed(programs.maven, "maven")
        _fetch_kafka()
    return programs.kafka()


def _oidc_provider() -> Path:
    found_or_installed(programs.node, "nodejs")
    if not OIDC_FOLDER.is_dir():
        found_or_installed(programs.npm, "npm")
        _fetch_oidc_provider()
    return programs.oidc_provider()


def found_or_installed(find: Callable[[], Path], *packages: str) -> Path:
    """Return what *find* finds, after installing the first of *packages* that helps. Raises NotInstalled."""
    for package in packages:
        try:
            return find()
        except NotInstalled:
            if not _can_install():
                raise
            print(f"installing the package {package} ...", flush=True)
            _apt_get("install", "--yes", "--no-install-recommends", package)
    return find()


def _can_install() -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    _refresh_package_lists()
    return True


@functools.cache
def _refresh_package_lists() -> None:
    _apt_get("update")


def _apt_get(*arguments: str) -> None:
    """Run apt-get; whether it helped shows in what is found afterwards, so only its words are passed on."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stderr.strip(), file=sys.stderr)


def _fetch_kafka() -> None:
    """Make KAFKA_FOLDER in one step, however many want it at the same time."""
    KAFKA_FOLDER.parent.mkdir(exist_ok=True)
    with locked(KAFKA_FOLDER.parent / "kafka.lock"):
        if KAFKA_FOLDER.is_dir():
            return
        print(f"fetching Kafka {KAFKA_VERSION} (43 MB) ...", flush=True)
        with tempfile.TemporaryDirectory(dir=KAFKA_FOLDER.parent, prefix="kafka-") as work:
            fetched = Path(work) / "kafka"
            _fetch_jars(Path(work), fetched / "libs")
            _make_checkpoint(Path(work), fetched)
            fetched.rename(KAFKA_FOLDER)


def _fetch_oidc_provider() -> None:
    """Make OIDC_FOLDER in one step, as Kafka's."""
    OIDC_FOLDER.parent.mkdir(exist_ok=True)
    with locked(OIDC_FOLDER.parent / "oidc-provider.lock"):
        if OIDC_FOLDER.is_dir():
            return
        print(f"fetching oidc-provider {OIDC_VERSION} (3 MB) ...", flush=True)
        with tempfile.TemporaryDirectory(dir=OIDC_FOLDER.parent, prefix="oidc-") as work:
            fetched = Path(work) / "oidc-provider"
            fetched.mkdir()
            quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
            _run([str(programs.npm()), "install", *quiet, f"oidc-provider@{OIDC_VERSION}"], fetched)
            fetched.rename(OIDC_FOLDER)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_jars(work: Path, libs: Path) -> None:
    (work / "pom.xml").write_text(POM)
    quiet = ["--quiet", "--batch-mode", "--strict-checksums"]
    what = [COPY_DEPENDENCIES, "-DincludeScope=runtime", f"-DoutputDirectory={libs}"]
    _run([str(programs.maven()), *quiet, *what], work)


def _make_checkpoint(work: Path, fetched: Path) -> None:
    """Keep what `format` writes for this version of Kafka: the same for every cluster, and dear to make."""
    data = work / "data"
    config = work / "format.properties"
    config.write_text(FORMAT_PROPERTIES.format(data=data))
    tool = [str(programs.java()), "-cp", f"{fetched}/libs/*", "kafka.tools.StorageTool"]
    _run([*tool, "format", "-t", ANY_CLUSTER_ID, "-c", str(config)], work)
    shutil.copy(data / "bootstrap.checkpoint", fetched)


def _run(command: Sequence[str], work: Path, more: Mapping[str, str] | None = None) -> None:
    """Run *command* in *work*, with *more* in its environment."""
    done = subprocess.run(
        command,
        cwd=work,
        env=os.environ | (more or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotInstalled(f"{command[0]} could not fetch it:\n{done.stdout[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
