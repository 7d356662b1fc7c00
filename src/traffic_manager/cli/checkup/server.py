"""The server that these settings are of, if it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from traffic_manager.cli import options
from traffic_manager.cli.checkup import Findings, good, problem, unused
from traffic_manager.config.settings import Settings

_TIMEOUT_S = 5.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 what a server may listen on


class Said(NamedTuple):
    """What the server at *url* answered: its checks by name, and its metrics as text. *trouble*: why it did not."""

    url: str
    is_ready: bool = False
    checks: Mapping[str, Any] = {}  # Any: JSON
    metrics: str = ""
    trouble: str = ""

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
    try:
        with options.connect(url, _TIMEOUT_S) as client:
            readiness = client.ready()
            return Said(url, readiness.is_ready, readiness.checks, client.metrics())
    except ClientError as error:
        return Said(url, trouble=str(error))


def look(said: Said) -> Findings:
    """Yield what is found."""
    if said.trouble:
        yield unused("server", f"none could be asked: {said.trouble}")
        return
    for name, check in said.checks.items():
        if check.get("status") in ("unhealthy", "degraded"):
            what = f"{name} is {check['status']}: {check.get('message', '')}"
            yield problem("server", what, "docs/reliability.md says what each means")
    if said.is_ready:
        yield good("server", f"the one at {said.url} is ready")
    else:
        yield problem("server", f"the one at {said.url} is not ready", "its checks say why; so does its log")
