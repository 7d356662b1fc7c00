"""Lends the connections of a psycopg pool: only those that live, none while the database is away, and from another
pool when this one does not find back to a database that can be reached.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg_pool import ConnectionPool, PoolTimeout

from traffic_manager.db.breaker import Breaker, Dialling
from traffic_manager.db.pool import CHECKOUT_TIMEOUT_S, Counters, PoolStats, wait_readable
from traffic_manager.db.round_trip import Connection
from traffic_manager.errors import Busy

# The pool doubles its pause from 1 s on: after a minute's outage it would stay away for another. Giving up
# early instead leaves it to the next caller to connect.
_RECONNECT_S = 1.0
_LIFE_S = 1800
# psycopg/psycopg#370 and #1315: a pool that has lost count of its connections opens no others ever again.
_STARVED_S = 10.0

Pool = ConnectionPool[Connection]


class Lender:
    """Lends up to *most* connections to *conninfo*; keeps *least* of them open."""

    def __init__(
        self,
        conninfo: str,
        least: int,
        most: int,
        prepare_threshold: int | None,
        breaker: Breaker,
        dialling: Dialling,
        counters: Counters,
    ) -> None:
        self._conninfo = conninfo
        self._least = least
        self._most = most
        self._prepare_threshold = prepare_threshold
        self._breaker = breaker
        self._dialling = dialling
        self._counters = counters
        self._lent: set[Connection] = set()
        self._starved_since: float | None = None
        self._pool = self._new_pool()

    def open(self) -> None:
        """Begin; connections come up in the background."""
        self._pool.open(wait=False)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close(timeout=2)

    def stats(self) -> PoolStats:
        """Return how the pool stands."""
        stats = self._pool.get_stats()
        size, available = stats.get("pool_size", 0), stats.get("pool_available", 0)
        return PoolStats(size, available, size - available, stats.get("requests_waiting", 0))

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """Lend a connection. Raises Busy if all are lent, PoolTimeout if none came up in time."""
        pool = self._pool
        connection = self._take(pool)
        try:
            yield connection
        finally:
            self._lent.discard(connection)
            pool.putconn(connection)

    def _take(self, pool: Pool) -> Connection:
        """Return a connection that lives. Not by the pool's own `check`: it would keep a connection of which
        libpq does not know yet that it is dead, and sleep all our time away after the second one."""
        began = time.monotonic()
        while True:
            connection = self._next(pool, began + CHECKOUT_TIMEOUT_S - time.monotonic())
            if _is_alive(connection):
                self._lent.add(connection)
                self._starved_since = None
                self._counters.waited(time.monotonic() - began)
                return connection
            connection.close()
            pool.putconn(connection)  # which opens another in its place

    def _next(self, pool: Pool, timeout_s: float) -> Connection:
        try:
            return pool.getconn(timeout_s)
        except PoolTimeout as error:
            # A server that is away leaves the pool empty, too: only if all are lent is it we who are full.
            if len(self._lent) < self._most:
                self._starve(pool)
                raise
            self._counters.connection_error()
            raise Busy("all database connections are in use") from error

    def _starve(self, pool: Pool) -> None:
        """Take another pool if this one has had nothing for long, though others reach the database."""
        now = time.monotonic()
        if self._starved_since is None:
            self._starved_since = now
        elif now - self._starved_since > _STARVED_S and self._breaker.reached_at > self._starved_since:
            self._starved_since = None
            self._replace(pool)

    def _replace(self, pool: Pool) -> None:
        fresh = self._new_pool()
        fresh.open(wait=False)
        self._pool = fresh
        self._counters.pool_replaced()
        pool.close(timeout=0)

    def _new_pool(self) -> Pool:
        return ConnectionPool(
            self._dial,
            connection_class=Connection,
            configure=self._came_up,
            min_size=self._least,
            max_size=self._most,
            timeout=CHECKOUT_TIMEOUT_S,
            kwargs={"autocommit": True, "prepare_threshold": self._prepare_threshold},
            max_lifetime=_LIFE_S,
            reconnect_timeout=_RECONNECT_S,
            open=False,
        )

    def _dial(self) -> str:
        """Return what to connect with; called by the pool each time that it does."""
        self._dialling.begin()
        return self._conninfo

    def _came_up(self, _connection: Connection) -> None:
        self._dialling.came_up()
        self._breaker.succeeded()


def _is_alive(connection: Connection) -> bool:
    """Return whether an idle connection can be used, without a round trip: it has nothing to read, unless the
    server closed it or said that it is going."""
    if connection.closed:
        return False
    return not wait_readable(0, connection.fileno())
