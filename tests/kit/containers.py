"""Containers of the kernel's own parts, where there is no container engine: a root file system over another one, and
namespaces for processes, mounts and the network. What runs in one is process 1 there, as with Docker.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.node import wait_until

SUBNET = "172.31.240"
SHM = "/dev/shm"  # noqa: S108 the container's own
DEVICES = ("null", "zero", "full", "random", "urandom")


class Network:
    """A bridge of its own, which reaches nothing but the containers on it."""

    def __init__(self) -> None:
        self.name = f"tm-{secrets.token_hex(4)}"
        self.hosts: dict[str, str] = {}

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        self.run("ip", "link", "add", "bridge", "type", "bridge")
        self.run("ip", "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self.hosts, ""]:
            subprocess.run(["ip", "netns", "del", f"{self.name}{name and '-'}{name}"], check=False)

    def run(self, *command: str) -> None:
        """Run *command* beside the bridge."""
        _run("ip", "netns", "exec", self.name, *command)

    def attach(self, name: str, last: int) -> str:
        """Give *name* the address that ends in *last*, and return the name of its network namespace."""
        space, cable = f"{self.name}-{name}", f"eth{last}"
        _run("ip", "netns", "add", space)
        self.hosts[name] = f"{SUBNET}.{last}"
        self.run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        self.run("ip", "link", "set", cable, "master", "bridge", "up")
        within = ("ip", "-n", space)
        _run(*within, "address", "add", f"{SUBNET}.{last}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run(*within, "link", "set", device, "up")
        return space


@dataclass(frozen=True)
class Mount:
    """What stands at *target*: *source* of this machine, or memory."""

    target: str
    source: Path | None = None
    is_read_only: bool = False


@dataclass(frozen=True)
class Plan:
    """What Docker would be told. *prepare* is done as root, in the container's root, before it starts."""

    root: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    user: str = "0:0"
    folder: str = "/"
    is_read_only: bool = False
    mounts: Sequence[Mount] = field(default_factory=tuple)
    prepare: str = ""


class Container:
    """One running *plan*, with its log and its layer in *folder*."""

    def __init__(self, plan: Plan, folder: Path, space: str, hosts: Mapping[str, str]) -> None:
        self._plan = plan
        self._folder = folder
        self._space = space
        folder.mkdir(parents=True)
        self._hosts = folder / "hosts"
        names = {"localhost": "127.0.0.1", **hosts}
        self._hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
        self.log_path = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        parts = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self._space, "unshare", *parts, "sh", "-euc", self._script()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_until(lambda: self._children() or self._has_ended(), what=f"the container's start: {self.log()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Process 1 of the container, as it is numbered outside."""
        (child,) = self._children()
        return int(child)

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM to process 1 and return its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Return the exit code of a container that ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def run(
        self, *command: str, environment: Mapping[str, str] | None = None, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* in the container, as its own user unless told otherwise."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--ipc", "--root"]
        within = self._as_user(command, {**self._plan.environment, **(environment or {})}, user)
        return subprocess.run([*enter, *within], capture_output=True, text=True, timeout=60, check=False)

    def wait_until_healthy(self, check: Sequence[str], timeout_s: float = 90.0) -> None:
        """Return when *check*, the test of a `HEALTHCHECK`, succeeds."""
        command = ["/bin/sh", "-c", *check[1:]] if check[0] == "CMD-SHELL" else check[1:]
        wait_until(lambda: self._succeeds(command), timeout_s, f"health: {check}")

    def log(self) -> str:
        """Return what it has said."""
        return self.log_path.read_text()

    def _children(self) -> list[str]:
        assert self._process is not None
        outer = self._process.pid
        return Path(f"/proc/{outer}/task/{outer}/children").read_text().split()

    def _has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _succeeds(self, command: Sequence[str]) -> bool:
        assert not self._has_ended(), f"the container ended by itself:\n{self.log()[-3000:]}"
        return self.run(*command).returncode == 0

    def _script(self) -> str:
        root, upper, work = (self._folder / name for name in ("root", "upper", "work"))
        for layer in (root, upper, work):
            layer.mkdir()
        plan = self._plan
        at = shlex.quote(str(root))
        return "\n".join(
            [
                "mount --make-rprivate /",
                f"mount -t overlay overlay -o lowerdir={plan.root},upperdir={upper},workdir={work} {at}",
                f"chroot {at} sh -euc {shlex.quote(plan.prepare)}" if plan.prepare else ":",
                f"mkdir -p {at}/proc {at}/dev && mount -t proc proc {at}/proc && mount -t tmpfs tmpfs {at}/dev",
                *(f"touch {at}/dev/{name} && mount --bind /dev/{name} {at}/dev/{name}" for name in DEVICES),
                f"ln -s /proc/self/fd {at}/dev/fd",
                f"mkdir {at}{SHM} && mount -t tmpfs -o size=64m,mode=1777 tmpfs {at}{SHM}",
                *(_mounted(root, mount) for mount in (Mount("/etc/hosts", self._hosts), *plan.mounts)),
                f"mount -o remount,bind,ro {at}" if plan.is_read_only else ":",
                f"exec chroot {at} {shlex.join(self._as_user(plan.command, plan.environment))}",
            ]
        )

    def _as_user(
        self, command: Sequence[str], environment: Mapping[str, str], user: str | None = None
    ) -> list[str]:
        """Return *command* for somebody who can get no right that they do not have, and no capability."""
        uid, _, gid = (user or self._plan.user).partition(":")
        who = [f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups", "--no-new-privs"]
        given = [f"{name}={value}" for name, value in environment.items()]
        clean = ["env", "-i", f"--chdir={self._plan.folder}", *given]
        return ["setpriv", *who, "--bounding-set=-all", *clean, *command]


def _mounted(root: Path, mount: Mount) -> str:
    at = shlex.quote(f"{root}{mount.target}")
    if mount.source is None:
        return f"mkdir -p {at} && mount -t tmpfs -o mode=1777 tmpfs {at}"
    make = f"mkdir -p {at}" if mount.source.is_dir() else f"mkdir -p $(dirname {at}) && touch {at}"
    source = shlex.quote(str(mount.source))
    read_only = f" && mount -o remount,bind,ro {at}" if mount.is_read_only else ""
    return f"{make} && mount --bind {source} {at}{read_only}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
