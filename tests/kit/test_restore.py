"""How long the runbook of a lost database takes: backup, restore, new epoch, check and start, each timed.

`python -m pytest -m kit tests/kit/test_restore.py -s` prints the figures of docs/operations.md. They are told,
not judged.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.load import started
from tests.kit.tools import tool
from tests.node import Node, path_of, resolve
from tests.package.builds import ROOT
from tests.promises.places import a_node
from tests.servers import PostgresServer

pytestmark = [pytest.mark.kit, pytest.mark.timeout(600)]

ROUTES = 10_140
EXAMPLE = ROOT / "examples" / "aws-endpoints.csv"
LATER = "https://later.example.com/"


@dataclass
class Timed:
    """What each step took, in seconds."""

    engine: str
    took_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self.took_s[name] = time.monotonic() - began_s

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {took_s:.1f} s" for name, took_s in self.took_s.items())
        return f"{self.engine}, {ROUTES:,} routes with history: {steps}; in all {sum(self.took_s.values()):.1f} s"


def _run(node: Node, *words: str) -> str:
    """Return what a command says, on the server's machine."""
    done = subprocess.run(
        [sys.executable, "-m", "traffic_manager.cli", *words],
        env={**node.environment, "TM_URL": node.url},
        cwd=node.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _fill(node: Node) -> None:
    """Make all routes of the example, and change each of them once."""
    with EXAMPLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    changed = node.folder / "changed.csv"
    with changed.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "url": f"{row['url'].rstrip('/')}/v2"} for row in rows)
    for path in (EXAMPLE, changed):
        _run(node, "routes", "import", str(path))


def _a_route() -> dict[str, str]:
    with EXAMPLE.open(newline="") as file:
        row = next(csv.DictReader(file))
    return {name: row[name] for name in ("tenant", "service", "env", "version")}


def _change(node: Node) -> str:
    """Make a change that will be lost; return its position."""
    with node.client() as client:
        answer = client.put(path_of(_a_route()), json={"url": LATER})
    assert answer.status_code == 200, answer.text
    return answer.headers["TM-Revision"]


def _known(verified: str) -> str:
    """Return the head and its digest, as `verify` prints them to be kept."""
    found = re.search(r"Digest at the head: (\S+)", verified)
    assert found, verified
    return found[1]


def _exported(node: Node) -> str:
    """Return all routes."""
    path = node.folder / "exported.csv"
    assert f"{ROUTES} routes" in _run(node, "routes", "export", "--file", str(path))
    return path.read_text()


def _check_it_is_another_epoch_with_its_history(node: Node, lost: str) -> None:
    key = _a_route()
    with node.client() as client:
        found = resolve(client, key)
        assert (found.status_code, found.json()["url"] == LATER) == (200, False)
        assert found.headers["TM-Revision"].partition(".")[0] != lost.partition(".")[0]
        history = client.get(f"{path_of(key)}/history").json()["changes"]
        assert [change["action"] for change in history] == ["updated", "created"]
        assert client.get("/api/v1/changes", params={"after": lost}).status_code == 410


def _practise(
    folder: Path,
    settings: Mapping[str, str],
    timed: Timed,
    back_up: Callable[[], None],
    restore: Callable[[], Mapping[str, str]],
) -> None:
    """Follow docs/operations.md from a backup under a running server until a restored one is ready."""
    with started(a_node(folder, settings), "--migrate") as node:
        _fill(node)
        known, routes = _known(_run(node, "verify")), _exported(node)
        with timed.step("backup"):
            back_up()
        lost = _change(node)
        node.stop()
    with timed.step("restore"):
        changed = restore()
    with a_node(folder, {**settings, **changed}) as node:
        with timed.step("new-epoch"):
            assert _run(node, "new-epoch").startswith("Epoch 2 (")
        with timed.step("verify"):
            _run(node, "verify", "--known", known)
        with timed.step("a node ready"):
            started(node)
        assert _exported(node) == routes
        _check_it_is_another_epoch_with_its_history(node, lost)
    print(f"\n{timed}")


@pytest.mark.servers
def test_dump_of_postgresql_is_restored(
    tmp_path: Path, postgres: PostgresServer, postgres_settings: dict[str, str]
) -> None:
    dump, restored = str(tmp_path / "routes.dump"), f"practised_{os.getpid()}"

    def back_up() -> None:
        name = postgres_settings["DB_NAME"]
        postgres.run("pg_dump", "--format=custom", f"--file={dump}", database=name)

    def restore() -> Mapping[str, str]:
        postgres.create_database(restored)
        postgres.run("pg_restore", "--exit-on-error", f"--dbname={restored}", dump, database=restored)
        return {"DB_NAME": restored}

    try:
        settings = {**postgres_settings, "API_WORKERS": "2"}
        _practise(tmp_path, settings, Timed("PostgreSQL"), back_up, restore)
    finally:
        postgres.drop_database(restored)


def test_backup_of_sqlite_is_restored(tmp_path: Path) -> None:
    program = tool("sqlite3")
    path, copy = tmp_path / "routes.db", tmp_path / "routes-backup.db"

    def back_up() -> None:
        subprocess.run([program, path, f".backup {copy}"], check=True, timeout=120)

    def restore() -> Mapping[str, str]:
        for end in ("", "-wal", "-shm"):
            file = Path(f"{path}{end}")
            if file.exists():
                file.rename(tmp_path / f"lost{end}")
        copy.rename(path)
        return {}

    _practise(tmp_path, {"DB_PATH": str(path)}, Timed("SQLite"), back_up, restore)
