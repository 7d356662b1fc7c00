"""What `make dist` makes: a wheel that serves where nothing else is, and a whole bill of materials."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.package.builds import ROOT, a_wheel, run, served_by

pytestmark = [pytest.mark.kit, pytest.mark.timeout(1800)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"traffic_manager-{PROJECT['version']}"
WHEEL = f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes."""
    folder = tmp_path_factory.mktemp("dist")
    run(["make", "--silent", "dist", f"DIST={folder}/made", f"PYTHON={sys.executable}"], cwd=ROOT)
    return folder / "made"


@pytest.fixture(scope="module")
def bill(dist: Path) -> Any:  # Any: a document of somebody else's making
    return json.loads((dist / "traffic-manager.cdx.json").read_text())


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that a user made: nothing but the wheel, and what pip finds for it."""
    folder = tmp_path_factory.mktemp("user") / "env"
    venv.create(folder, symlinks=True, with_pip=True)
    extras = ",".join(PROJECT["optional-dependencies"])
    run([str(folder / "bin" / "pip"), "install", "--quiet", f"{dist / WHEEL}[{extras}]"])
    return folder / "bin" / "python"


def test_it_makes_three_files(dist: Path) -> None:
    assert {path.name for path in dist.iterdir()} == {WHEEL, f"{NAME}.tar.gz", "traffic-manager.cdx.json"}


def test_the_wheel_serves_in_an_empty_environment(python: Path, tmp_path: Path) -> None:
    answers = served_by(python, tmp_path)
    assert answers["resolved"] == "https://payments.example.com/v2"
    assert answers["ended with"] == "0"


def test_the_extras_bring_the_drivers(python: Path, tmp_path: Path) -> None:
    run([str(python), "-c", "import confluent_kafka, hiredis, psycopg, psycopg_pool, redis"], cwd=tmp_path)


def test_the_wheel_of_the_sdist_is_the_same(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(dist / f"{NAME}.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    again = a_wheel(tmp_path, source=tmp_path / NAME)
    assert again.read_bytes() == (dist / WHEEL).read_bytes()


def test_the_bill_names_every_library_of_the_lock(bill: Any) -> None:
    lock = (ROOT / "requirements.txt").read_text()
    everywhere = set(re.findall(r"^([^\s=]+)==([^\s;]+) \\$", lock, re.MULTILINE))
    billed = {(_normal(part["name"]), part["version"]) for part in bill["components"]}
    assert {name for name, _ in everywhere - billed} == {
        "uv-build"
    }  # which built the wheel, and is no part of it


def test_the_bill_names_each_licence_and_what_is_billed(bill: Any) -> None:
    assert [part["name"] for part in bill["components"] if not part.get("licenses")] == []
    assert bill["metadata"]["component"]["name"] == "traffic-manager"
    assert bill["metadata"]["component"]["version"] == PROJECT["version"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
