"""A real PostgreSQL."""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from . import programs
from .ports import accepts
from .process import Account
from .server import Server, ServerStartError

DEFAULTS = {
    "fsync": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "unix_socket_directories": "",
    # A killed server leaves its segments behind: better in its own folder than in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
PSQL_TIMEOUT_S = 30.0
SEGMENT_LINE = 6  # of postmaster.pid, counted from 0; a server in good health removes the file when it ends.
IPC_RMID = 0


class PostgresServer(Server):
    """PostgreSQL on TCP, with a superuser and a random password (SCRAM), and one empty database.

    *programs_folder* holds `initdb`, `postgres` and `psql`; without it the newest installed one is taken, or
    else the wheel's. Started by root it runs as `postgres`, or `nobody`, since PostgreSQL refuses root.
    """

    name = "postgres"
    # Fast shutdown: SIGTERM would wait for every client to leave.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(
        self, *, settings: Mapping[str, str] | None = None, programs_folder: Path | None = None
    ) -> None:
        super().__init__(settings=settings)
        self.user = "traffic_manager"
        self.password = secrets.token_hex(16)
        self.database = "traffic_manager"
        self._programs_folder = programs_folder.resolve() if programs_folder else None

    def env(self, database: str | None = None) -> dict[str, str]:
        return {
            "DB_HOST": self.host,
            "DB_PORT": str(self.port),
            "DB_NAME": database or self.database,
            "DB_USER": self.user,
            "DB_PASSWORD": self.password,
        }

    def conninfo(self, database: str | None = None) -> str:
        """Return what `psycopg.connect` takes."""
        where = f"host={self.host} port={self.port} dbname={database or self.database}"
        return f"{where} user={self.user} password={self.password}"

    def create_database(self, name: str) -> dict[str, str]:
        """Make an empty database and return its `env()`."""
        self.psql(f"create database {_quoted(name)}")
        return self.env(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, if it is there, and end the connections to it."""
        self.psql(f"drop database if exists {_quoted(name)} with (force)")

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Return what psql prints for *statement*, unaligned. Raises RuntimeError with psql's own message."""
        return self.run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, database=database)

    def run(self, program: str, *arguments: str, database: str) -> str:
        """Return what one of PostgreSQL's own programs prints. Raises RuntimeError with its message."""
        connection = {"PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": self.user}
        secret = {"PGPASSWORD": self.password, "PGDATABASE": database, "PGCONNECT_TIMEOUT": "2"}
        done = subprocess.run(
            [self._programs() / program, *arguments],
            env=_without_postgres_variables() | connection | secret,
            capture_output=True,
            text=True,
            timeout=PSQL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return done.stdout.strip()

    def close(self) -> None:
        self.stop()
        self._remove_shared_memory()
        super().close()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _create(self) -> None:
        account = self._account()
        if account is not None:
            os.chown(self.folder, account.uid, account.gid)
            self._take_programs_along(account)
        self._initdb(account)

    def _initdb(self, account: Account | None) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        # The flush is for the machine's crash, and this server's data would not survive that anyway.
        options = ["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
        where = [f"--pgdata={self._data}", f"--username={self.user}", f"--pwfile={password_file}"]
        if account is not None:
            os.chown(password_file, account.uid, account.gid)
        done = _run_as(account, [self._programs() / "initdb", *options, *where], cwd=self.folder)
        password_file.unlink()
        if done.returncode != 0:
            raise ServerStartError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> Sequence[str | Path]:
        ours = {"listen_addresses": self.host, "port": str(self.port)}
        settings = DEFAULTS | ours | self.settings
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._programs() / "postgres", "-D", self._data, *options]

    def _is_ready(self) -> bool:
        # The password makes sure that it is ours, and no other server on this port.
        if not accepts(self.port):
            return False
        try:
            if self.database not in self.psql("select datname from pg_database").splitlines():
                self.create_database(self.database)
        except (RuntimeError, subprocess.TimeoutExpired):
            return False
        return True

    def _remove_shared_memory(self) -> None:
        """Remove the segment that a killed server leaves in the kernel, for its next start to find."""
        pid_file = self._data / "postmaster.pid"
        if pid_file.exists() and len(lines := pid_file.read_text().splitlines()) > SEGMENT_LINE:
            _key, segment = lines[SEGMENT_LINE].split()
            ctypes.CDLL(None).shmctl(int(segment), IPC_RMID, None)

    def _account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return Account(entry.pw_uid, entry.pw_gid)
        raise ServerStartError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")

    def _programs(self) -> Path:
        return self._programs_folder or programs.postgres()

    def _take_programs_along(self, account: Account) -> None:
        """Copy the programs into our folder if *account* cannot reach them, as below root's home."""
        try:
            _run_as(account, [self._programs() / "postgres", "--version"], cwd=self.folder)
        except PermissionError:
            self._programs_folder = _copy_programs(self._programs(), self.folder / "programs", account)


def _copy_programs(source: Path, target: Path, account: Account) -> Path:
    """Copy a wheel's PostgreSQL, with the libraries that its programs look for beside the package."""
    install, package = source.parent, source.parent.parent
    shutil.copytree(install, target / package.name / install.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in [target, *target.rglob("*")]:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return target / package.name / install.name / source.name


def _run_as(
    account: Account | None, command: Sequence[str | Path], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=_without_postgres_variables(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        check=False,
    )


def _without_postgres_variables() -> dict[str, str]:
    """Return our environment without PGHOST, PGSSLMODE and the like, meant for another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _quoted(identifier: str) -> str:
    escaped = identifier.replace('"', '""')
    return f'"{escaped}"'
