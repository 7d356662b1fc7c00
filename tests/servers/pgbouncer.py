"""A real PgBouncer before a PostgreSQL: a pooler, in transaction mode by default."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import programs
from .ports import accepts
from .postgres import PostgresServer
from .process import Account
from .server import Server, ServerStartError

DEFAULTS = {
    "pool_mode": "transaction",
    "auth_type": "plain",
    # Else it refuses clients that send settings with their first message, as ours do. It drops them.
    "ignore_startup_parameters": "options,extra_float_digits",
    "default_pool_size": "20",
    "max_client_conn": "500",
    "unix_socket_dir": "",
}


class PgBouncer(Server):
    """Lends the connections of *postgres*, all of its databases."""

    name = "pgbouncer"

    def __init__(self, postgres: PostgresServer, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings=settings)
        self._postgres = postgres

    def env(self, database: str | None = None) -> dict[str, str]:
        pooled = {"DB_HOST": self.host, "DB_PORT": str(self.port), "DB_PREPARE": "false"}
        return self._postgres.env(database) | pooled

    def _create(self) -> None:
        """Write the files: the port may be another at each start, so they come with the command."""

    def _command(self) -> Sequence[str | Path]:
        users, config = self.folder / "users.txt", self.folder / "pgbouncer.ini"
        users.write_text(f'"{self._postgres.user}" "{self._postgres.password}"\n')
        ours = {"listen_addr": self.host, "listen_port": str(self.port), "auth_file": str(users)}
        settings = "\n".join(f"{name} = {value}" for name, value in (DEFAULTS | ours | self.settings).items())
        where = f"host={self._postgres.host} port={self._postgres.port}"
        config.write_text(f"[databases]\n* = {where}\n[pgbouncer]\n{settings}\n")
        if account := self._account():
            for path in (self.folder, users, config):
                os.chown(path, account.uid, account.gid)
        return [programs.pgbouncer(), config]

    def _is_ready(self) -> bool:
        return accepts(self.port)

    def _account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError as error:
            raise ServerStartError("PgBouncer refuses to run as root, and there is no user nobody") from error
        return Account(entry.pw_uid, entry.pw_gid)
