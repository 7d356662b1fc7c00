"""The wheel holds all that is ours, states its version once, and serves from outside of this repository."""

from __future__ import annotations

import re
import sysconfig
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.package.builds import ROOT, a_wheel, an_environment, install, run, served_by

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with the wheel in it, and beside it the libraries of the tests: of ours, nothing
    but what the wheel brings."""
    python = an_environment(tmp_path_factory.mktemp("environment") / "env")
    install(python, "--no-deps", wheel)
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_everything_of_the_source_is_in_the_wheel(wheel: Path) -> None:
    source = ROOT / "src"
    ours = [path for path in (source / "traffic_manager").rglob("*") if path.is_file()]
    expected = {str(path.relative_to(source)) for path in ours if "__pycache__" not in path.parts}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    assert {name for name in packed if ".dist-info/" not in name} == expected


def test_the_wheel_offers_every_extra(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        metadata = packed.read(f"traffic_manager-{VERSION}.dist-info/METADATA").decode()
    extras = set(HeaderParser().parsestr(metadata).get_all("Provides-Extra", []))
    assert extras == set(PROJECT["optional-dependencies"])
    assert extras >= {"postgres", "redis", "kafka", "otel"}


def test_every_extra_is_documented() -> None:
    page = (ROOT / "docs/install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) >= set(PROJECT["optional-dependencies"])


def test_it_serves_from_elsewhere(python: Path, tmp_path: Path) -> None:
    assert served_by(python, tmp_path) == {
        "created": "201",
        "resolved": "https://payments.example.com/v2",
        "description": VERSION,
        "page": "200",
        "ended with": "0",
    }


def test_what_serves_is_the_wheel(python: Path, tmp_path: Path) -> None:
    where = run([str(python), "-c", "import traffic_manager as t; print(t.__file__)"], cwd=tmp_path)
    assert where.startswith(str(python.parents[1]))


def test_it_tells_the_version_of_the_project(python: Path, tmp_path: Path) -> None:
    told = run([str(python.with_name("traffic-manager")), "--version"], cwd=tmp_path)
    assert told == f"traffic-manager {VERSION}\n"


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == VERSION
