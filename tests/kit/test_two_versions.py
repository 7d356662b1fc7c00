"""The program before the last migration and this one, together: during an upgrade, and on the way back.

The other tests hold migrations to a rule, and make up the version that comes next. Here the one before is what it
was: the last state in the history of this repository whose tables were of the version before.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

import traffic_manager.db.migrate as migrating
from tests.api.streams import Stream
from tests.kit.load import a_change, a_load, started
from tests.node import SOURCE, Node, a_key, path_of, resolve
from tests.package.builds import ROOT
from tests.promises.places import a_node
from traffic_manager.db.schema import SCHEMA_VERSION

pytestmark = [pytest.mark.kit, pytest.mark.timeout(600)]

BEFORE = f"{int(SCHEMA_VERSION) - 1:04}"
_numbers = count(1)


@dataclass(frozen=True)
class Program:
    """A state of the program: where its modules are."""

    source: str

    def node(self, folder: Path, settings: Mapping[str, str]) -> Node:
        return a_node(folder, {**settings, "PYTHONPATH": self.source})

    def run(self, settings: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the server's machine, with its settings."""
        environment = {"PATH": os.environ["PATH"], **settings, "PYTHONPATH": self.source}
        command = [sys.executable, "-m", "traffic_manager.cli", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


NEW = Program(SOURCE)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program whose tables were of the version before."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(_sources_before_the_last_migration())) as packed:
        packed.extractall(folder, filter="data")
    assert f'SCHEMA_VERSION = "{BEFORE}"' in (folder / "src/traffic_manager/db/schema.py").read_text()
    return Program(str(folder / "src"))


def _sources_before_the_last_migration() -> bytes:
    (migration,) = (migrating._SCRIPTS / "versions").glob(f"{SCHEMA_VERSION}_*.py")
    try:
        added = _git("log", "-1", "--diff-filter=A", "--format=%H", "--", str(migration)).decode().strip()
        # One that is not committed yet comes after all that is.
        return _git("archive", f"{added}^" if added else "HEAD", "src")
    except (OSError, subprocess.CalledProcessError) as missing:
        if os.environ.get("CI"):
            pytest.fail(f"the history must be there in CI (fetch-depth: 0): {missing}")
        pytest.skip(f"NEEDS THE HISTORY of the repository: {missing}")


def _git(*words: str) -> bytes:
    # In CI's container the tree is another user's.
    command = ["git", "-c", f"safe.directory={ROOT}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout


def _put(node: Node, key: Mapping[str, str], **headers: str) -> tuple[str, str]:
    """Give a route a new URL; return it, and the revision."""
    url = f"https://versions.example.com/{next(_numbers)}"
    return url, _put_again(node, key, url, **headers)


def _put_again(node: Node, key: Mapping[str, str], url: str, **headers: str) -> str:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    with node.client() as client:
        answer = client.put(path_of(key), json={"url": url}, headers=given)
    assert answer.is_success, answer.text
    return answer.headers["TM-Revision"]


def _check_one_shows_what_the_other_does(one: Node, other: Node) -> None:
    """Change at *one*, look at *other*."""
    key = a_key("together")
    url, revision = _put(one, key)
    once = f'"once-{next(_numbers)}"'
    with Stream(other, {"after": revision, "service": key["service"]}) as stream, other.client() as client:
        assert resolve(client, key, tm_min_revision=revision).json()["url"] == url
        url, revision = _put(one, key, idempotency_key=once)
        told = stream.next("change").data
        assert (told["url"], told["action"]) == (url, "updated")
        # Whoever got no answer, and comes to the other node with it, has it made once.
        assert _put_again(other, key, url, idempotency_key=once) == revision
        history = client.get(f"{path_of(key)}/history").json()["changes"]
        assert [change["url"] for change in history].count(url) == 1


def _check_each_shows_what_the_other_does(nodes: Sequence[Node]) -> None:
    one, other = nodes
    _check_one_shows_what_the_other_does(one, other)
    _check_one_shows_what_the_other_does(other, one)


def _is_whole(program: Program, settings: Mapping[str, str]) -> bool:
    return program.run(settings, "verify").returncode == 0


@pytest.mark.servers
def test_upgrade_and_the_way_back_interrupt_nobody(
    old: Program, tmp_path: Path, postgres_settings: dict[str, str]
) -> None:
    settings = {**postgres_settings, "API_WORKERS": "2"}
    with old.node(tmp_path, settings) as first, old.node(tmp_path, settings) as second:
        started(first, "--migrate")
        started(second)
        _put(first, a_key())
        with NEW.node(tmp_path, settings) as early:
            early.start(wait_ready=False)
            assert early.wait_for_exit(60.0) != 0
            assert f"of version {BEFORE}, this program needs {SCHEMA_VERSION}" in early.log()
        assert NEW.run(settings, "migrate", "--check").returncode == 1

        with a_load(second.client, a_change) as load, NEW.node(tmp_path, settings) as new:
            assert NEW.run(settings, "migrate").returncode == 0
            load.wait_for_more()
            first.stop()
            _check_each_shows_what_the_other_does([second, started(new)])
            load.wait_for_more()
            assert second.is_ready()
        assert load.failures == []

        with NEW.node(tmp_path, settings) as new, a_load(started(new).client, a_change) as load:
            second.stop()
            started(first, "--migrate")
            _check_each_shows_what_the_other_does([first, new])
            load.wait_for_more()
        assert load.failures == []
        assert NEW.run(settings, "migrate", "--check").returncode == 0
        assert _is_whole(old, settings)
        assert _is_whole(NEW, settings)


def test_file_of_the_old_program_serves_the_new_one_and_goes_back(old: Program, tmp_path: Path) -> None:
    settings = {"DB_PATH": str(tmp_path / "routes.db")}
    made = {}
    for number, program in enumerate((old, NEW, old, NEW)):
        with started(program.node(tmp_path, settings)) as node:
            made[f"service-{number}"], _ = _put(node, a_key(f"service-{number}"))
            with node.client() as client:
                found = {service: resolve(client, a_key(service)).json()["url"] for service in made}
            assert found == made
            assert node.stop() == 0
        assert _is_whole(program, settings)
