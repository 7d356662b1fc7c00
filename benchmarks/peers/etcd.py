"""etcd, one member, asked and written to through its JSON gateway over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import httpx2
from tests.servers import Server
from tests.servers.ports import free_port

from benchmarks.install import etcd
from benchmarks.load import ask, send

# etcd takes no more operations in one transaction.
_MOST_IN_TRANSACTION = 128


class EtcdServer(Server):
    """etcd as it comes: one member, flushing every commit to the disk as we do."""

    name = "etcd"

    def __init__(self) -> None:
        super().__init__()
        self._peer_port = free_port()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def env(self) -> dict[str, str]:
        return {}

    def fill(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Put all *pairs* of key and value."""
        with httpx2.Client(base_url=self.url, timeout=30) as client:
            for first in range(0, len(pairs), _MOST_IN_TRANSACTION):
                puts = [{"requestPut": put(*pair)} for pair in pairs[first : first + _MOST_IN_TRANSACTION]]
                client.post("/v3/kv/txn", json={"success": puts}).raise_for_status()

    def revision(self) -> int:
        """Return the revision of the store: one more for each change."""
        _, body = ask(self.url, send("POST", "/v3/kv/range", range_body("none")))
        return int(json.loads(body)["header"]["revision"])

    def _create(self) -> None:
        """etcd makes its own files."""

    def _command(self) -> Sequence[str | Path]:
        peers = f"http://{self.host}:{self._peer_port}"
        options = {
            "name": "bench",
            "data-dir": self.folder / "data",
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"bench={peers}",
            "log-level": "error",
        }
        return [etcd(), *(f"--{name}={value}" for name, value in options.items())]

    def _is_ready(self) -> bool:
        try:
            answer = httpx2.get(f"{self.url}/health", timeout=1)
        except httpx2.HTTPError:
            return False
        return answer.status_code == 200 and answer.json().get("health") == "true"

    def _ports(self) -> list[int]:
        return [self.port, self._peer_port]

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self._peer_port = free_port()


def encoded(text: str) -> str:
    """Return *text* as the gateway takes and gives keys and values."""
    return base64.b64encode(text.encode()).decode()


def decoded(text: str) -> str:
    """Return what `encoded` was given."""
    return base64.b64decode(text).decode()


def put(key: str, value: str) -> dict[str, str]:
    """Return the document that puts one key."""
    return {"key": encoded(key), "value": encoded(value)}


def range_body(key: str) -> bytes:
    """Return the body that asks for one key from this member's own state, as our resolves do."""
    return json.dumps({"key": encoded(key), "serializable": True}).encode()
