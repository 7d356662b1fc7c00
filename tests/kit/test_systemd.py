"""The units of `deploy/systemd`: systemd takes them, and the server needs nothing that they forbid."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.access.issue import PEPPER
from tests.kit.tools import tool
from tests.node import SOURCE, Node, wait_until
from tests.servers.programs import ROOT
from traffic_manager.config.loading import load_settings
from traffic_manager.config.settings import Settings

pytestmark = pytest.mark.kit

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("traffic-manager.service", "traffic-manager-migrate.service")
_CLOSING = (
    *("Protect", "Private", "Restrict", "Remove", "SystemCall", "Capability", "Ambient", "Lock", "Memory"),
    "NoNewPrivileges",
)
INSTALLED = "/opt/traffic-manager/bin"
# From the end of the drain to the end of the process, at most: see main.py.
AFTER_DRAIN_S = 30
PR_SET_MDWE = 65
# Runs a command that gets no memory which it can write and execute, as MemoryDenyWriteExecute has it.
WITHOUT_WRITTEN_CODE = f"""
import ctypes, os, sys
assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def directives(unit: str) -> list[tuple[str, str]]:
    """Return name and value of each line of a unit, in order."""
    return re.findall(r"^(\w+)=(.*)$", (FOLDER / unit).read_text(), re.MULTILINE)


def environment() -> dict[str, str]:
    """Return all that the file for settings has, what is only proposed there too."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.+)$", (FOLDER / "environment").read_text(), re.MULTILINE))


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(unit: str, tmp_path: Path) -> None:
    # It looks whether the program is there, which is installed elsewhere here.
    here = tmp_path / unit
    here.write_text((FOLDER / unit).read_text().replace(INSTALLED, str(Path(sys.executable).parent)))
    done = subprocess.run(
        [str(tool("systemd-analyze")), "verify", str(here)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_it_well_closed(unit: str) -> None:
    # 0 is closed, 10 open; what is left is that it speaks with a network.
    command = [
        str(tool("systemd-analyze")),
        "security",
        "--offline=true",
        "--threshold=13",
        str(FOLDER / unit),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_both_units_are_closed_alike() -> None:
    server, migration = (
        {(name, value) for name, value in directives(unit) if name.startswith(_CLOSING)} for unit in UNITS
    )
    assert server == migration
    assert len(server) > 15


def test_node_is_not_killed_while_it_drains() -> None:
    (stop_s,) = [float(value) for name, value in directives(UNITS[0]) if name == "TimeoutStopSec"]
    drain_s = 5.0  # The default in production, which the file for settings leaves.
    assert "DRAIN_SECONDS" not in environment()
    assert stop_s >= drain_s + AFTER_DRAIN_S


def test_settings_are_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, value in environment().items():
        monkeypatch.setenv(variable, _here(value, tmp_path))
    settings = load_settings(env_file=None)
    settings.check_serving()
    assert settings.db.password is not None
    known = {
        section.variable(field)
        for section in Settings.section_types().values()
        for field in section.model_fields
    }
    assert {name for name in environment() if name.removesuffix("_FILE") not in known} <= known


def _here(value: str, folder: Path) -> str:
    """Return *value*, or the file that stands for a secret."""
    if "/secrets/" not in value:
        return value
    (folder / Path(value).name).write_text(PEPPER)
    return str(folder / Path(value).name)


def test_shell_reads_the_settings_too(tmp_path: Path) -> None:
    """As the documentation makes the first key."""
    file = tmp_path / "environment"
    pepper = _here("/secrets/pepper", tmp_path)
    file.write_text(
        (FOLDER / "environment").read_text().replace("/etc/traffic-manager/secrets/pepper", pepper)
    )
    command = f"set -a; . {file}; {sys.executable} -m traffic_manager.cli keys create --role admin"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env={"PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tmk_")


def test_user_is_made_as_the_units_name_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    command = [str(tool("systemd-sysusers")), f"--root={tmp_path}", str(FOLDER / "sysusers.conf")]
    subprocess.run(command, check=True, capture_output=True)
    (user,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    assert {user.partition(":")[0]} == {
        value for unit in UNITS for name, value in directives(unit) if name == "User"
    }


@pytest.mark.servers
@pytest.mark.timeout(400)
def test_server_needs_no_call_that_the_unit_forbids(
    tmp_path: Path, postgres_settings: dict[str, str]
) -> None:
    if ctypes.CDLL(None).prctl(PR_SET_MDWE + 1, 0, 0, 0, 0) < 0:  # asks what is set
        pytest.skip("this kernel cannot forbid written code to a process: it is older than 6.3")
    made = calls_of(Node(tmp_path, {**postgres_settings, "API_WORKERS": "2"}), tmp_path)
    assert {"accept4", "prctl", "execve"} <= made
    assert sorted(made - allowed()) == []


def calls_of(node: Node, folder: Path) -> set[str]:
    """Return the system calls of a node from its start over some requests to its end, which was good."""
    trace = folder / "trace"
    serve = [sys.executable, "-m", "traffic_manager.cli", "serve", "--migrate"]
    tracer = [str(tool("strace")), "--follow-forks", "--quiet=all", "--output", str(trace)]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [*tracer, sys.executable, "-c", WITHOUT_WRITTEN_CODE, *serve],
            cwd=folder,
            env=node.environment,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: _is_ready(node), 180.0, "readiness")
            with node.client() as client:
                client.put("/api/v1/routes/team-a/payments/prod/v1", json={"url": "https://a.example"})
                client.get("/metrics")
            _children_of(running.pid, signal.SIGTERM)
            assert running.wait(120.0) == 0
        finally:
            running.kill()
    return set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))


def _is_ready(node: Node) -> bool:
    try:
        return httpx2.get(f"{node.url}/health/ready", timeout=2.0).status_code == 200
    except httpx2.HTTPError:
        return False


def _children_of(pid: int, number: signal.Signals) -> None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        subprocess.run(["kill", f"-{number.value}", child], check=True)


def allowed() -> set[str]:
    """Return the system calls that the unit permits."""
    told = subprocess.run(
        [str(tool("systemd-analyze")), "syscall-filter"], capture_output=True, text=True
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in told.splitlines():
        if line.startswith("@"):
            groups[line] = members = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())
    found = _calls(groups, "@default")
    for name, value in directives(UNITS[0]):
        if name == "SystemCallFilter":
            calls = {call for group in value.lstrip("~").split() for call in _calls(groups, group)}
            found = found - calls if value.startswith("~") else found | calls
    return found


def _calls(groups: dict[str, list[str]], name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    return {call for member in groups[name] for call in _calls(groups, member)}
