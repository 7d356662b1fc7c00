"""The bundle that `doctor --support` writes: what one asks for first when something is wrong, and no secrets.

Settings are shown as `config show` does it. Whatever else is in the bundle came from servers and drivers, which may
say anything: every secret that this process knows is taken out of it.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

from traffic_manager import __version__
from traffic_manager.cli.checkup import Finding
from traffic_manager.cli.checkup.server import Said
from traffic_manager.config.loading import without_secrets
from traffic_manager.config.settings import Settings, shown

_FOLDER = "traffic-manager-support"
# For its owner alone: names of hosts and tenants are nobody else's business.
_MODE = 0o600


def write(file: Path, settings: Settings | None, findings: Sequence[Finding], said: Said | None) -> None:
    """Write the bundle to *file*, whole or not at all. *settings*: None if they are no good; *said*: None if nobody
    was asked."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_CREAT | os.O_WRONLY | os.O_EXCL, _MODE)
        with os.fdopen(descriptor, "wb") as to, tarfile.open(fileobj=to, mode="w:gz") as bundle:
            for name, text in _parts(settings, findings, said):
                _add(bundle, name, without_secrets(text))
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _parts(
    settings: Settings | None, findings: Sequence[Finding], said: Said | None
) -> Iterator[tuple[str, str]]:
    yield "doctor.json", json.dumps([finding._asdict() for finding in findings], indent=2)
    yield "machine.txt", _machine()
    yield "libraries.txt", "\n".join(sorted(f"{found.name}=={found.version}" for found in distributions()))
    if settings is not None:
        yield "settings.txt", "\n".join(f"{name}={value}" for name, value in shown(settings).items())
    if said is not None and not said.trouble:
        yield "health.json", said.health
        yield "metrics.txt", said.metrics or said.metrics_trouble


def _machine() -> str:
    lines = (
        f"traffic-manager {__version__}",
        f"Python {platform.python_version()} ({platform.python_implementation()})",
        platform.platform(),
        f"{os.cpu_count()} processors, load {os.getloadavg()}",
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return "\n".join(lines)


def _add(bundle: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), _MODE
    bundle.addfile(entry, io.BytesIO(content))
