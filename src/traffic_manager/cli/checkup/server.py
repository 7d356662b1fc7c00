"""The server that these settings are of, if it runs; and the port that it would listen on."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from traffic_manager.cli import options
from traffic_manager.cli.checkup import Finding, Findings, Level, good, problem, unused
from traffic_manager.config.settings import Settings

_TIMEOUT_S = 5.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 what a server may listen on


class Said(NamedTuple):
    """What the server at *url* answered: its checks by name, and its metrics as text. *trouble*, *metrics_trouble*:
    why it did not."""

    url: str
    is_ready: bool = False
    checks: Mapping[str, Any] = {}  # Any: JSON
    metrics: str = ""
    trouble: str = ""
    metrics_trouble: str = ""

    @property
    def health(self) -> str:
        """The checks as JSON."""
        return json.dumps(self.checks, indent=2)


def url_of(settings: Settings) -> str:
    """Return where the server is: as TM_URL says, else on this machine, as *settings* say."""
    host = settings.api.host or "127.0.0.1"
    here = f"{'https' if settings.tls.is_on else 'http'}://{_ANY.get(host, host)}:{settings.api.port}"
    return os.environ.get("TM_URL") or here


def ask(settings: Settings) -> Said:
    """Return what the server says."""
    from traffic_manager.client import ClientError

    url = url_of(settings)
    with options.connect(url, _TIMEOUT_S) as client:
        try:
            readiness = client.ready()
        except ClientError as error:
            return Said(url, trouble=str(error))
        said = Said(url, readiness.is_ready, readiness.checks)
        try:
            return said._replace(metrics=client.metrics())
        except ClientError as error:
            return said._replace(metrics_trouble=str(error))


def look(settings: Settings, said: Said) -> Findings:
    """Yield what is found."""
    if said.trouble:
        yield _port(settings, said)
        return
    for name, check in said.checks.items():
        if check.get("status") in ("unhealthy", "degraded"):
            what = f"{name} is {check['status']}: {check.get('message', '')}"
            yield problem("server", what, "docs/reliability.md says what each means")
    if said.is_ready:
        yield good("server", f"the one at {said.url} is ready")
    else:
        yield problem("server", f"the one at {said.url} is not ready", "its checks say why; so does its log")
    if said.metrics_trouble:
        what, fix = (
            f"could not be read: {said.metrics_trouble}",
            "show a key that may `read-metrics`: --key-file",
        )
        yield Finding("metrics", Level.UNUSED, what, fix)


def _port(settings: Settings, said: Said) -> Finding:
    """Return whether a server that does not run could listen."""
    port = settings.api.port
    refused = _why_not(settings.host, port)
    if refused is None:
        return unused("server", f"none could be asked: {said.trouble}")
    if refused.errno == errno.EADDRINUSE:
        what = f"something listens on port {port}, and does not answer as our server does: {said.trouble}"
        ours = "if it is ours see its log, or show its authority (--ca-file); if not set API_PORT"
        fix = f"find it with `ss -ltnp sport = :{port}`; {ours}"
        return problem("server", what, fix)
    what = f"could not listen on {settings.host}, port {port}: {refused.strerror}"
    fix = "API_HOST has to be an address of this machine; API_PORT below 1024 needs the capability NET_BIND_SERVICE"
    return problem("server", what, fix)


def _why_not(host: str, port: int) -> OSError | None:
    """Return why nobody can begin to listen there, None if one can. It listens for a moment."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as here:
                here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                here.bind(address)
                here.listen()
    except OSError as error:
        return error
    return None
