"""nginx answering a constant: the least that any HTTP server can do for a resolve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.servers import Server
from tests.servers.ports import accepts

from benchmarks.install import program

_CONFIG = """
worker_processes {workers};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen {host}:{port};
    location / {{ default_type application/json; return 200 '{body}'; }}
  }}
}}
"""


class NginxServer(Server):
    """nginx with as many worker processes as the server beside it; every answer is *body*."""

    name = "nginx"

    def __init__(self, body: str, workers: int = 2) -> None:
        super().__init__()
        self._body = body
        self._workers = workers

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def env(self) -> dict[str, str]:
        return {}

    def _create(self) -> None:
        """nginx makes its own folders; its configuration names the port, which may still change."""

    def _command(self) -> Sequence[str | Path]:
        config = self.folder / "nginx.conf"
        where = {"folder": self.folder, "host": self.host, "port": self.port}
        config.write_text(_CONFIG.format(**where, body=self._body, workers=self._workers))
        return [program("nginx"), "-c", config]

    def _is_ready(self) -> bool:
        return accepts(self.port) and (self.folder / "nginx.pid").exists()
