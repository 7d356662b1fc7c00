"""`db copy` as an operator moves a server to PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node import Node, a_key, a_route, path_of, resolve


def _copy(folder: Path, *places: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "traffic_manager.cli",
        "db",
        "copy",
        "--from",
        places[0],
        "--to",
        places[1],
    ]
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.servers
def test_callers_go_on_at_the_copy_with_all_that_they_hold(
    tmp_path: Path, postgres_settings: dict[str, str]
) -> None:
    with Node(tmp_path) as before:
        before.start()
        with before.client() as client:
            made = client.post("/api/v1/routes", json=a_route())
            position = client.get("/api/v1/changes").json()["head"]
            running = _copy(tmp_path, "routes.db", "postgresql", **postgres_settings)
            assert (running.returncode, "another server uses this SQLite file" in running.stderr) == (1, True)
        before.stop()
        done = _copy(tmp_path, "routes.db", "postgresql", **postgres_settings)
        assert done.returncode == 0, done.stderr
        assert "1 changes (revisions 1 to 1 of history " in done.stderr
        assert [line.split() for line in done.stdout.splitlines() if "routes" in line] == [["routes", "1"]]
    with Node(tmp_path, {**postgres_settings, "API_WORKERS": "2"}) as after:
        after.start()
        with after.client() as client:
            known = {"tm_min_revision": made.headers["TM-Revision"], "if_none_match": made.headers["ETag"]}
            assert resolve(client, a_key(), **known).status_code == 304
            changed = client.put(
                path_of(a_key()),
                json={"url": "https://new.example.com/"},
                headers={"If-Match": made.headers["ETag"]},
            )
            assert changed.status_code == 200, changed.text
            following = client.get("/api/v1/changes", params={"after": position}).json()
            assert [change["revision"] for change in following["changes"]] == [2]


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    done = _copy(tmp_path, "nothing.db", "postgresql", DB_HOST="127.0.0.1")
    assert (done.returncode, done.stderr) == (1, "--from: there is no file nothing.db\n")
    assert not (tmp_path / "nothing.db").exists()


@pytest.mark.parametrize("places", [("postgresql", "postgresql"), ("a.db", "b.db")])
def test_two_databases_of_a_kind_are_refused_with_what_copies_them(
    tmp_path: Path, places: tuple[str, str]
) -> None:
    done = _copy(tmp_path, *places, DB_HOST="127.0.0.1")
    assert done.returncode == 2
    assert "pg_dump" in done.stderr


def test_postgresql_has_to_be_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "routes.db").touch()
    done = _copy(tmp_path, "routes.db", "postgresql")
    assert done.returncode == 1
    assert done.stderr.startswith("DB_HOST: must be set")
