"""The machine and the program: libraries, files, room on the disk, open files."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sqlite3
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from traffic_manager import __version__
from traffic_manager.cli.checkup import Finding, Findings, advice, good, problem
from traffic_manager.config.settings import Settings

if TYPE_CHECKING:
    from traffic_manager.api.certificates import Certificates

# An answered change needs a few pages; what runs full stops all of them.
_FREE_BYTES = 1 << 30
# A connection is an open file, and so is each of the database's.
_OPEN_FILES = 4096
# `returning`, which the relay's lease needs.
_SQLITE = (3, 35, 0)
# When the alert on it begins, too.
_LAST_DAYS = 14


def look(settings: Settings) -> Findings:
    """Yield what is found."""
    yield from _program(settings)
    yield from _folders(settings)
    yield _open_files()


def _program(settings: Settings) -> Findings:
    shown = f"traffic-manager {__version__}, Python {platform.python_version()} on {platform.system()}"
    wanted = (
        ("postgres", "psycopg", "DB_HOST", settings.db.is_postgres),
        ("redis", "redis", "REDIS_HOST", settings.redis.host is not None),
        ("kafka", "confluent_kafka", "KAFKA_BOOTSTRAP_SERVERS", bool(settings.kafka.bootstrap_servers)),
    )
    missing = [
        (extra, variable) for extra, module, variable, is_used in wanted if is_used and not find_spec(module)
    ]
    for extra, variable in missing:
        what = f"{variable} is set, and the library for it is not installed"
        yield problem("program", what, f"pip install 'traffic-manager[{extra}]'")
    if not settings.db.is_postgres and sqlite3.sqlite_version_info < _SQLITE:
        yield problem(
            "program", f"SQLite is {sqlite3.sqlite_version}", "use a Python with SQLite 3.35 or newer"
        )
    if not missing:
        yield good("program", shown)


def _folders(settings: Settings) -> Findings:
    folders = {}
    if not settings.db.is_postgres:
        folders["DB_PATH"] = settings.db.path.parent
    if settings.audit.heads_file is not None:
        folders["AUDIT_HEADS_FILE"] = settings.audit.heads_file.parent
    if settings.snapshot_path is not None:
        folders["SNAPSHOT_PATH"] = settings.snapshot_path.parent
    for variable, folder in folders.items():
        yield _folder(variable, folder)


def _folder(variable: str, folder: Path) -> Finding:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return problem("files", f"{variable}: {there} is a file, and has to be a folder", f"set {variable}")
    if not os.access(there, os.W_OK | os.X_OK):
        return problem(
            "files", f"{variable}: {folder} cannot be written by this user", f"chown or chmod {there}"
        )
    free = shutil.disk_usage(there).free
    if free < _FREE_BYTES:
        what = f"{variable}: only {free // 2**20:,} MiB are free at {folder}"
        return problem("files", what, "make room: what is full takes nothing more")
    return good("files", f"{variable}: {folder} can be written, {free // 2**30:,} GiB are free")


def _open_files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _OPEN_FILES:
        what = f"at most {hard:,} files may be open, so hardly as many connections"
        return advice("open files", what, "raise it: LimitNOFILE=1048576 in systemd, ulimits in a container")
    return good("open files", "any number" if hard == resource.RLIM_INFINITY else f"up to {hard:,}")


def certificate(certificates: Certificates | None) -> Findings:
    """Yield how long the server's certificate lasts; nothing without TLS."""
    if certificates is None:
        return
    days = (certificates.loaded.expires_at - time.time()) / 86_400
    if days > _LAST_DAYS:
        yield good("certificate", f"lasts {days:,.0f} more days")
    else:
        what = f"ends in {days:,.0f} days" if days > 0 else "has ended: no client takes it"
        yield problem("certificate", what, "renew it: new files in the place of the old ones, at any time")
