"""`migrate --check` and `--plan` as CI and operators run them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from traffic_manager.db.schema import SCHEMA_VERSION


def _migrate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "traffic_manager.cli", "migrate", *options]
    environment = {"PATH": os.environ["PATH"], "DB_PATH": str(folder / "routes.db")}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_check_says_by_its_exit_code_whether_there_is_something_to_do(tmp_path: Path) -> None:
    before = _migrate(tmp_path, "--check")
    assert (before.returncode, "version none" in before.stdout) == (1, True)
    assert "run `traffic-manager migrate`" in before.stdout
    assert _migrate(tmp_path).returncode == 0
    after = _migrate(tmp_path, "--check")
    assert (after.returncode, f"version {SCHEMA_VERSION}" in after.stdout) == (0, True)


def test_plan_is_sql_and_nothing_else(tmp_path: Path) -> None:
    planned = _migrate(tmp_path, "--plan")
    assert not list(tmp_path.iterdir())
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(planned.stdout)
        assert database.execute("select version_num from alembic_version").fetchone() == (SCHEMA_VERSION,)


def test_plan_and_check_are_two_questions(tmp_path: Path) -> None:
    assert _migrate(tmp_path, "--plan", "--check").returncode == 2
