"""The unit under a real systemd, installed as the documentation says: in namespaces, over this machine's files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.tools import tool
from tests.node import wait_until
from tests.package.builds import a_wheel, run
from tests.servers.programs import ROOT

pytestmark = [
    pytest.mark.kit,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]
PYTHON = "/usr/bin/python3"
# By pivot_root, not chroot: who is in a chroot may make no users of its own (PrivateUsers).
BOOT = """
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir={here}/upper,workdir={here}/work {here}/root
cd {here}/root
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for folder in dev/shm run tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p opt/traffic-manager kit .old
mount --bind {here}/program opt/traffic-manager
mount --bind {source} kit
rm -rf etc/systemd/system etc/fstab etc/traffic-manager
mkdir -p etc/systemd/system
ln -s /lib/systemd/system/basic.target etc/systemd/system/default.target
for unit in udevd udev-trigger logind networkd resolved timesyncd; do
    ln -s /dev/null etc/systemd/system/systemd-$unit.service
done
ip link set lo up
pivot_root . .old
umount -l .old
cd /
exec /lib/systemd/systemd --log-target=console --show-status=no
"""


class Machine:
    """A systemd that has started, and its files in *folder*."""

    def __init__(self, folder: Path) -> None:
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        self.log_path = folder / "log"
        group = _cgroups() / f"tm-{folder.name}"
        group.mkdir(exist_ok=True)
        join = f"echo $$ > {group}/cgroup.procs"
        parts = "--mount --pid --ipc --uts --net --cgroup --fork --kill-child"
        (folder / "boot").write_text(BOOT.format(here=folder, source=ROOT))
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"{join}; exec unshare {parts} bash -eu {folder}/boot"], stdout=log, stderr=log
            )

    def wait_until_up(self) -> None:
        wait_until(self._is_up, 120.0, "systemd")

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run *script* in it, as an administrator would."""
        within = [
            "nsenter",
            f"--target={self._systemd()}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
        ]
        return subprocess.run(
            [*within, "bash", "-euc", f"cd /kit\n{script}"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _systemd(self) -> str:
        outer = self._process.pid
        return Path(f"/proc/{outer}/task/{outer}/children").read_text().strip()

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.log_path.read_text()
        return bool(self._systemd()) and self.run("systemctl is-active basic.target").returncode == 0


def _cgroups() -> Path:
    """Return where the one hierarchy of control groups is."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    pytest.skip("NEEDS A REAL TOOL: control groups of version 2")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the program in /opt/traffic-manager: the wheel, and the libraries of this environment."""
    tool("systemd-analyze")
    folder = tmp_path_factory.mktemp("machine")
    program = folder / "program"
    run([PYTHON, "-m", "venv", "--without-pip", str(program)])
    (libraries,) = program.glob("lib/python*/site-packages")
    (ours,) = Path(sys.prefix).glob(f"lib/{libraries.parent.name}/site-packages")
    shutil.copytree(ours, libraries, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*traffic_manager*"))
    a_wheel(folder)
    (wheel,) = folder.glob("*.whl")
    run(["unzip", "-q", str(wheel), "-d", str(libraries)])
    script = program / "bin" / "traffic-manager"
    script.write_text("#!/opt/traffic-manager/bin/python\nfrom traffic_manager.cli import main\nmain()\n")
    script.chmod(0o755)
    with closing(Machine(folder)) as machine:
        machine.wait_until_up()
        yield machine


def test_documented_steps_lead_to_a_node_that_serves_and_comes_back(machine: Machine) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    (steps,) = re.findall(r"^## systemd\n.*?^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    first, sudo, key = steps.partition("sudo -u traffic-manager")
    assert sudo
    installed = machine.run(first)
    assert installed.returncode == 0, machine.run("systemctl status traffic-manager; journalctl -n 40").stdout
    _wait_until_ready(machine)
    as_user = "setpriv --reuid=traffic-manager --regid=traffic-manager --init-groups"
    made = machine.run(f"{as_user}{key}")
    assert made.stdout.startswith("tmk_"), made.stderr
    use = f"export TM_API_KEY={made.stdout.strip()} PATH=/opt/traffic-manager/bin:$PATH"
    route = "team-a/payments/prod/v2"
    put = machine.run(f"{use}; traffic-manager routes put {route} https://payments.example.com/v2")
    assert put.returncode == 0, put.stderr
    machine.run("kill -9 $(systemctl show -p MainPID --value traffic-manager)")
    wait_until(
        lambda: machine.run("systemctl show -p NRestarts traffic-manager").stdout == "NRestarts=1\n", 60
    )
    _wait_until_ready(machine)
    assert (
        machine.run(f"{use}; traffic-manager resolve {route}").stdout == "https://payments.example.com/v2\n"
    )
    stopped = machine.run(
        "systemctl stop traffic-manager; systemctl show -p Result,ExecMainStatus traffic-manager"
    )
    assert stopped.stdout.split() == ["Result=success", "ExecMainStatus=0"]


def _wait_until_ready(machine: Machine) -> None:
    wait_until(
        lambda: machine.run("curl -sf http://127.0.0.1:8000/health/ready").returncode == 0,
        120.0,
        "readiness",
    )
