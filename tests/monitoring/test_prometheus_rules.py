"""What `deploy/prometheus` gives to Prometheus: promtool takes all of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.servers import programs

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return programs.prometheus().with_name("promtool")
    except programs.NotInstalled as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: in CI every tool must be there")
        pytest.skip(f"NEEDS A REAL TOOL: {missing}")


def run(promtool: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [promtool, *arguments], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_configuration_is_one(promtool: Path) -> None:
    # Where the key lies on this machine nobody knows.
    run(promtool, "check", "config", "--syntax-only", "prometheus.yml")


def test_rules_are_correct_and_none_is_there_twice(promtool: Path) -> None:
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)
