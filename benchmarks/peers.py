"""What we are compared with, and the load generators: nginx, wrk, pgbench. All from Debian's packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.node import wait_until
from tests.servers.ports import HOST, accepts, free_port

_NGINX_CONFIG = """
worker_processes 2;
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


@dataclass(frozen=True)
class Load:
    """What wrk measured: requests a second, latencies in milliseconds, and how many failed."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int


@contextmanager
def nginx(body: str) -> Iterator[str]:
    """Run nginx answering *body*, a constant; give its URL."""
    program = _program("nginx", "/usr/sbin")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = Path(folder) / "nginx.conf"
        config.write_text(_NGINX_CONFIG.format(folder=folder, host=HOST, port=port, body=body))
        process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: accepts(port), what="nginx")
            yield f"http://{HOST}:{port}"
        finally:
            process.terminate()
            process.wait()


def wrk(url: str, script: str, seconds: float, connections: int = 64) -> Load:
    """Load *url* with the requests of the Lua *script*."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [
            _program("wrk"),
            "-t1",
            f"-c{connections}",
            f"-d{seconds:.0f}s",
            "--latency",
            "-s",
            file.name,
            url,
        ]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    return Load(
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", printed)),
        p50_ms=_milliseconds(_found(r"(?m)^ +50% +(\S+)$", printed)),
        p99_ms=_milliseconds(_found(r"(?m)^ +99% +(\S+)$", printed)),
        errors=int(failed[1]) if failed else 0,
    )


def pgbench(environment: dict[str, str], seconds: float, clients: int = 64) -> float:
    """Return how many single-row inserts a second PostgreSQL itself commits for *clients* at once."""
    program = max(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    connection = {
        "PGHOST": environment["DB_HOST"],
        "PGPORT": environment["DB_PORT"],
        "PGUSER": environment["DB_USER"],
        "PGPASSWORD": environment["DB_PASSWORD"],
        "PGDATABASE": environment["DB_NAME"],
    }
    insert = "insert into peer values (:client_id, 'https://payments.example.com/v2');\n"
    subprocess.run(
        ["psql", "-qc", "create table if not exists peer (client int, url text)"], env=connection, check=True
    )
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(insert)
        file.flush()
        command = [str(program), "-n", "-f", file.name, f"-c{clients}", "-j2", f"-T{seconds:.0f}"]
        done = subprocess.run(command, env=connection, capture_output=True, text=True, check=True)
    return float(_found(r"tps = ([\d.]+)", done.stdout))


def _program(name: str, also_in: str = "") -> str:
    found = shutil.which(name) or shutil.which(name, path=also_in)
    if not found:
        raise SystemExit(f"{name} is missing: apt-get install -y --no-install-recommends nginx-light wrk")
    return found


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if not match:
        raise SystemExit(f"no {pattern!r} in:\n{text}")
    return match[1]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr] # wrk prints nothing else
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
