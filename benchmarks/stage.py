"""What the scenarios stand on: a folder, one PostgreSQL with filled databases, and servers of ours."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from tests.node import Node
from tests.servers import PostgresServer

from benchmarks.plan import Plan
from benchmarks.routes import fill_postgres, fill_sqlite

EXAMPLE = Path(__file__).parents[1] / "examples" / "aws-endpoints.csv"
# A complete mirror at every size.
_MIRROR = {"MIRROR_MAX_ROUTES": "2000000"}


class Stage:
    """Opened once for a run. Whatever is started on it ends with it."""

    def __init__(self, plan: Plan, folder: Path, things: ExitStack) -> None:
        self.plan = plan
        self._folder = folder
        self._things = things
        self._filled: set[int] = set()
        self._count = 0
        self._began = time.monotonic()

    @cached_property
    def postgres(self) -> PostgresServer:
        """The one PostgreSQL of the run: fsync on, as it comes."""
        return self._things.enter_context(PostgresServer(settings={"max_wal_size": "4GB"}))

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    def database(self, routes: int) -> dict[str, str]:
        """Return the settings of a new PostgreSQL database that holds *routes* routes."""
        template = f"filled-{routes}"
        if routes not in self._filled:
            self._fill(self.postgres.create_database(template), routes)
            self._filled.add(routes)
        name = self._next(f"bench-{routes}")
        self.postgres.psql(f'create database "{name}" template "{template}"')
        return self.postgres.env(name)

    def sqlite(self, routes: int) -> dict[str, str]:
        """Return the settings of a new SQLite file that holds *routes* routes."""
        path = self._folder / self._next("routes.db")
        settings = {"DB_PATH": str(path)}
        self._migrate(settings)
        self.say(f"filling SQLite with {routes:,} routes")
        fill_sqlite(path, routes)
        return settings

    @contextmanager
    def node(self, database: dict[str, str], workers: int = 1, **settings: str) -> Iterator[Node]:
        """Give a server that is ready; it ends with the block."""
        with self.stopped_node(database, workers, **settings) as node:
            yield node.start()

    @contextmanager
    def stopped_node(self, database: dict[str, str], workers: int = 1, **settings: str) -> Iterator[Node]:
        """Give a server that has not been started; it ends with the block."""
        folder = self._folder / self._next("node")
        folder.mkdir()
        with Node(folder, {**_MIRROR, **database, "API_WORKERS": str(workers), **settings}) as node:
            yield node

    def _fill(self, database: dict[str, str], routes: int) -> None:
        self.say(f"filling PostgreSQL with {routes:,} routes")
        self._migrate(database)
        fill_postgres(database, routes)

    def _migrate(self, database: dict[str, str]) -> None:
        with self.stopped_node(database) as node:
            command = [sys.executable, "-m", "traffic_manager.cli", "migrate"]
            subprocess.run(command, env=node.environment, check=True, capture_output=True, timeout=60)

    def _next(self, name: str) -> str:
        self._count += 1
        return f"{name}-{self._count}"
