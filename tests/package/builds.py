"""Wheels of this tree, and environments to install them into."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.node import Node, a_key, a_route, resolve

ROOT = Path(__file__).parents[2]


def a_wheel(folder: Path, source: Path = ROOT) -> Path:
    """Build the wheel of *source* into *folder*, with the backend that is pinned, and return it."""
    build = "import sys, uv_build; uv_build.build_wheel(sys.argv[1])"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run([sys.executable, "-c", build, str(folder)], env={**os.environ, "PATH": path}, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def an_environment(folder: Path) -> Path:
    """Return the python of a new virtual environment that holds nothing, not even pip."""
    venv.create(folder, symlinks=True, with_pip=False)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    """Install *what* into the environment of *python*, as pip takes it."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    run([*pip, "install", *map(str, what)])


def run(command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return what *command* says on stdout. Fails the test if it fails."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def served_by(python: Path, folder: Path) -> dict[str, str]:
    """Serve with the `traffic-manager` beside *python*, in *folder*; return what a resolve and two pages answer."""
    program = str(python.with_name("traffic-manager"))
    with Node(folder, {"PYTHONPATH": ""}, program=(program,)) as node, node.start().client() as client:
        created = client.post("/api/v1/routes", json=a_route())
        answers = {
            "created": str(created.status_code),
            "resolved": resolve(client, a_key()).json()["url"],
            "description": client.get("/openapi.json").json()["info"]["version"],
            "page": str(client.get("/docs").status_code),
        }
        answers["ended with"] = str(node.stop())
    return answers
