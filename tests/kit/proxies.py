"""Real proxies with the very files of `deploy/proxies`, in which only addresses, names and folders are others."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import httpx2

from tests.access.authority import SERVER, Authority
from tests.kit.tools import tool
from tests.servers.ports import HOST
from tests.servers.programs import ROOT
from tests.servers.server import Server

EXAMPLES = ROOT / "deploy" / "proxies"
NGINX_AROUND = """\
daemon off;
{user}
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {inside};
}}
"""


class Proxy(Server):
    """One before the two nodes at *ports*, with certificates of *authority*."""

    files: ClassVar[Sequence[str]]

    def __init__(self, ports: tuple[int, int], authority: Authority) -> None:
        super().__init__()
        self.url = f"https://{HOST}:{self.port}"
        self._nodes = ports
        self._authority = authority

    def env(self) -> dict[str, str]:
        return {"TM_URL": self.url, "TM_CA_FILE": str(self._authority.file)}

    def client(self, address: str = "127.0.0.9", timeout_s: float = 15.0) -> httpx2.Client:
        """Return a client that asks from *address*, which is no trusted proxy's; close it."""
        transport = httpx2.HTTPTransport(verify=self._authority.trust(), local_address=address)
        return httpx2.Client(base_url=self.url, transport=transport, timeout=timeout_s)

    def _create(self) -> None:
        certificate, key = self._authority.issue(*SERVER, is_server=True)
        (self.folder / "proxy.crt").write_bytes(certificate.read_bytes())
        (self.folder / "proxy.key").write_bytes(key.read_bytes())
        (self.folder / "ca.crt").write_bytes(self._authority.file.read_bytes())
        for name in self.files:
            (self.folder / name).write_text(self._fitted((EXAMPLES / name).read_text()))

    def _is_ready(self) -> bool:
        try:
            with self.client(timeout_s=2.0) as client:
                return client.get("/health/ready").status_code == 200
        except httpx2.HTTPError:
            return False

    def _fitted(self, example: str) -> str:
        for written, ours in self._ours().items():
            example = example.replace(written, ours)
        left = [mark for mark in ("example.com", "/etc/", "10.0.0.", "internal") if mark in example]
        assert not left, f"{self.name} still has {left}"
        return example

    def _ours(self) -> Mapping[str, str]:
        first, second = self._nodes
        return {
            "10.0.0.11:8000": f"{HOST}:{first}",
            "10.0.0.12:8000": f"{HOST}:{second}",
            "/etc/traffic-manager": str(self.folder),
            "routes.internal": "localhost",
            "listen 443 ssl http2;": f"listen {HOST}:{self.port} ssl http2;",
            "routes.example.com:443": f":{self.port}",
            "server_name routes.example.com;": "",
            "bind :443": f"bind {HOST}:{self.port}",
            'address: ":443"': f'address: "{HOST}:{self.port}"',
            "address: 0.0.0.0, port_value: 443": f"address: {HOST}, port_value: {self.port}",
            "address: 10.0.0.11, port_value: 8000": f"address: {HOST}, port_value: {first}",
            "address: 10.0.0.12, port_value: 8000": f"address: {HOST}, port_value: {second}",
            "docs/deployment.md": "docs",
        }

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...


class Nginx(Proxy):
    name = "nginx"
    files = ("nginx.conf",)

    def _command(self) -> Sequence[str | Path]:
        # As root it would give its work to an account that cannot read this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        around = self.folder / "around.conf"
        around.write_text(NGINX_AROUND.format(inside=self.folder / "nginx.conf", user=user))
        return [tool("nginx"), "-p", self.folder, "-c", around]


class HAProxy(Proxy):
    name = "haproxy"
    files = ("haproxy.cfg",)

    def _command(self) -> Sequence[str | Path]:
        return [tool("haproxy"), "-db", "-f", self.folder / "haproxy.cfg"]


class Caddy(Proxy):
    name = "caddy"
    files = ("Caddyfile",)

    def _command(self) -> Sequence[str | Path]:
        # It keeps a state of its own in the user's folder.
        home = f"HOME={self.folder}"
        config = self.folder / "Caddyfile"
        return ["/usr/bin/env", home, tool("caddy"), "run", "--adapter", "caddyfile", "--config", config]


class Traefik(Proxy):
    name = "traefik"
    files = ("traefik.yaml", "traefik-routes.yaml")

    def _command(self) -> Sequence[str | Path]:
        return [tool("traefik"), f"--configfile={self.folder / 'traefik.yaml'}"]


class Envoy(Proxy):
    name = "envoy"
    files = ("envoy.yaml",)

    def _command(self) -> Sequence[str | Path]:
        # One that others run must not be taken for an earlier one of ours.
        alone = ["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]
        return [tool("envoy"), *alone, "-c", self.folder / "envoy.yaml"]


PROXIES = (Nginx, HAProxy, Caddy, Traefik, Envoy)
