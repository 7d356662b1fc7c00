"""The README's first five minutes work as they stand there, against a server of this test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node import Node

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> str:
    """Return every block marked `sh`, one after the other."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a person sees who types the README's commands."""
    folder = tmp_path_factory.mktemp("readme")
    with Node(folder) as node:
        node.start()
        (folder / "examples").symlink_to(ROOT / "examples")
        binaries = Path(sys.executable).parent
        environment = os.environ | {"TM_URL": node.url, "PATH": f"{binaries}:{os.environ['PATH']}"}
        script = "set -e\n" + commands().replace("http://localhost:8000", node.url)
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_created_route_resolves(shown: str) -> None:
    assert shown.count('"url":"https://payments.example.com/v2"') == 2


def test_all_routes_of_the_example_are_imported(shown: str) -> None:
    assert re.search(r"created +10140", shown)


def test_the_moved_route_resolves_to_its_new_url(shown: str) -> None:
    lines = shown.splitlines()
    assert lines.index("https://s3.eu-west-1.amazonaws.com") < lines.index("https://s3.example.com")


def test_the_log_names_the_changes(shown: str) -> None:
    assert "deactivated" in shown


def test_every_document_that_is_linked_exists() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
