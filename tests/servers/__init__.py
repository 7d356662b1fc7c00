"""Real PostgreSQL (and PgBouncer), Redis, Kafka and an OpenID provider, for tests and for play: without containers.

`python -m tests.servers.install` brings what is missing; `python -m tests.servers` starts the three.
"""

from .kafka import KafkaServer
from .oidc import OidcProvider
from .pgbouncer import PgBouncer
from .postgres import PostgresServer
from .programs import NotInstalled
from .redis import RedisServer
from .server import Server, ServerStartError

__all__ = [
    "KafkaServer",
    "NotInstalled",
    "OidcProvider",
    "PgBouncer",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerStartError",
]
