"""Real PostgreSQL (and PgBouncer), Redis and Kafka, for tests and for play: started here, without containers.

`python -m tests.servers.install` brings what is missing; `python -m tests.servers` starts the three.
"""

from .kafka import KafkaServer
from .pgbouncer import PgBouncer
from .postgres import PostgresServer
from .programs import NotInstalled
from .redis import RedisServer
from .server import Server, ServerStartError

__all__ = [
    "KafkaServer",
    "NotInstalled",
    "PgBouncer",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerStartError",
]
