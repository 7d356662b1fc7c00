"""`python -m tests.servers`: PostgreSQL, Redis and Kafka to play with, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from . import KafkaServer, NotInstalled, PostgresServer, RedisServer, Server, ServerStartError
from .programs import ROOT

SERVERS: dict[str, type[Server]] = {kind.name: kind for kind in (PostgresServer, RedisServer, KafkaServer)}
ENV_FILE = ROOT / "data" / "services.env"


def main() -> int:
    kinds, env_file = _chosen(sys.argv[1:])
    # SIGINT too: a shell that starts us in the background would have us ignore it.
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.default_int_handler)
    try:
        # Ctrl-C, SIGTERM and SIGHUP arrive as KeyboardInterrupt; leaving the block stops the servers.
        with suppress(KeyboardInterrupt), _running(kinds) as servers, _written(_exports(servers), env_file):
            print(f"{_exports(servers)}\n{_how_to_use(env_file)}", flush=True)
            while True:
                signal.pause()
    except (NotInstalled, ServerStartError) as error:
        print(f"{error}\nIs everything there? `python -m tests.servers.install` tells.", file=sys.stderr)
        return 1
    return 0


def _chosen(arguments: Sequence[str]) -> tuple[list[type[Server]], Path]:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("--only", default=",".join(SERVERS), help="for example: postgres,redis")
    parser.add_argument("--env-file", type=Path, default=ENV_FILE, help="default: data/services.env")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SERVERS]:
        parser.error(f"--only knows {', '.join(SERVERS)}, and not {', '.join(unknown)}")
    return [SERVERS[name] for name in names], options.env_file


@contextmanager
def _running(kinds: Sequence[type[Server]]) -> Iterator[list[Server]]:
    """Start all at the same time, and close what started even if one did not."""
    with ExitStack() as stack:
        servers = [kind() for kind in kinds]
        for server in servers:
            stack.callback(server.close)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.start(), servers))
        yield servers


def _exports(servers: Sequence[Server]) -> str:
    """Return lines for a shell."""
    variables = [pair for server in servers for pair in server.env().items()]
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables)


@contextmanager
def _written(exports: str, env_file: Path) -> Iterator[None]:
    """Keep *env_file* for as long as the servers run: afterwards it would lead nowhere."""
    env_file.parent.mkdir(exist_ok=True)
    fresh = env_file.with_suffix(".new")
    # Only for us to read: the password is in it.
    with open(fresh, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(exports)
    fresh.replace(env_file)
    try:
        yield
    finally:
        env_file.unlink(missing_ok=True)


def _how_to_use(env_file: Path) -> str:
    return f"In another shell: `. {env_file}`, or paste the lines above. Ctrl-C here stops the servers."


if __name__ == "__main__":
    sys.exit(main())
