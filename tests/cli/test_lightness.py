"""Every command pays for what the command line imports before it knows which one is wanted."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"alembic", "fastapi", "httpx2", "pydantic", "rich", "sqlalchemy", "structlog"}


def test_nothing_heavy_is_imported_before_the_command_is_known() -> None:
    program = "import sys, traffic_manager.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "typer" in imported
    assert imported & HEAVY == set()
