"""One worker process: its parts, joined, opened and closed. `main` starts one, or several."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI

from traffic_manager.access.key_registry import KeyRegistry
from traffic_manager.access.limit_registry import LimitRegistry
from traffic_manager.api.app import build_app
from traffic_manager.api.context import Parts
from traffic_manager.api.origin import TrustedProxies
from traffic_manager.api.pages import PageTokens
from traffic_manager.api.server import Server, admission_to
from traffic_manager.api.turns import Turns
from traffic_manager.callers import Callers
from traffic_manager.checks import check_cache, check_database, check_mirror
from traffic_manager.config.settings import RedisSettings, Settings
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.limit_store import SqlLimitStore
from traffic_manager.db.pool import open_database
from traffic_manager.db.store import SqlStore
from traffic_manager.gauges import (
    FollowerCounts,
    Growth,
    MirrorGauges,
    counters_of,
    measure_pool,
    measure_snapshot,
)
from traffic_manager.inheritance import Memory
from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.monitoring.health import (
    DATABASE,
    Check,
    CheckResult,
    Health,
    not_configured,
)
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload
from traffic_manager.monitoring.spans import Kind
from traffic_manager.monitoring.system_metrics import Source, SystemMetrics
from traffic_manager.outbox import Outbox
from traffic_manager.parent import EXIT_REFUSED
from traffic_manager.routing.batch_resolver import BatchResolver
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.registry import Registry
from traffic_manager.routing.resolver import Resolver
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.urls import UrlPolicy
from traffic_manager.traces import open_tracing

if TYPE_CHECKING:
    from traffic_manager.cache.redis_client import RedisClient
    from traffic_manager.cache.route_cache import RedisRouteCache

# Connections of the pool that are not for reads: writer, relay, probe.
_RESERVED_CONNECTIONS = 3
_READ_PATIENCE_S = 0.25
# So many more objects than before let the collector look for garbage in circles, of which there is hardly any. By
# Python's 700 it looked at requests under way over and over: a seventh of a busy worker's time, 40 ms at once.
_NEW_OBJECTS = 20_000
# For what would keep the event loop for long: bodies of megabytes, a scrape. They share one interpreter lock.
_ASIDE_THREADS = 2
_SYNCHRONISE_PATIENCE_S = 3.0
_CATCH_UP_PATIENCE_S = 1.0
_PROBE_EVERY_S = 2.0
# How long a busy event loop may keep the interpreter from the writer and the follower. With Python's 5 ms a change
# waited a third longer beside a flood of resolves; below 1 ms all got slower. See ADR 11.
_SWITCH_S = 0.001
_BEAT_S = 1.0

log = structlog.get_logger(__name__)


class Worker:
    """One worker process: its parts, joined; opened and closed in order around serving. Begins with
    what is in *memory*, and loads the table itself if none is there. *beat* is called while the event loop runs."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        memory: Memory,
        dropped_lines: Callable[[], int] = lambda: 0,
        beat: Callable[[], None] | None = None,
        is_node_stopping: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._memory = memory
        self._dropped_lines = dropped_lines
        self._beat = beat
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_code = 0
        metrics.tm_bad_row_total.inc(memory.bad_rows)
        self._database = open_database(settings.db, counters_of(metrics))
        self._tracing = open_tracing(settings.traces, metrics)
        self._redis = _redis_client(settings.redis) if settings.redis.host else None
        self._callers = Callers(settings, metrics, memory, self._redis)
        self._follower = self._new_follower()
        self._reads = Bulkhead("read", settings.db.pool_max - _RESERVED_CONNECTIONS, _READ_PATIENCE_S)
        self._unknown_names = UnknownNames(settings.app.unknown_names_per_second)
        self._outbox = self._new_outbox()
        self._store = self._new_store()
        self._registry = Registry(self._store, self._committed, memory.limits.routes)
        self._overload = Overload(metrics)
        self._lines = Growth(metrics.tm_log_dropped_total.inc)
        self._health = Health(self._checks(), was_database_reached=memory.mirror.head is not None)
        self._system = SystemMetrics(metrics, self._sources(), interval_s=_PROBE_EVERY_S)
        self._server = self._new_server(self._parts(), is_node_stopping)

    def run(self, listener: socket.socket) -> int:
        """Serve until told to stop; return the exit code."""
        sys.setswitchinterval(_SWITCH_S)
        self._server.serve_on(listener)
        return self._exit_code

    def _new_follower(self) -> Follower:
        memory = self._memory
        return Follower(
            SqlFeed(self._database, self._metrics.tm_bad_row_total.inc, listens=True),
            memory.mirror,
            FollowerCounts(self._metrics),
            memory.watchers,
            memory.keyring,
            memory.limits,
            at_head=memory.at_head,
        )

    def _new_outbox(self) -> Outbox | None:
        settings = self._settings.kafka
        if not settings.bootstrap_servers:
            return None
        return Outbox(settings, self._database, self._metrics, self._tracing)

    def _new_store(self) -> SqlStore:
        tracing = self._tracing
        return SqlStore(self._database, tracing.recorder("store.write", Kind.CLIENT, {}) if tracing else None)

    def _new_server(self, parts: Parts, is_node_stopping: Callable[[], bool]) -> Server:
        admission = admission_to(parts)
        return Server(
            build_app(parts, self._lifespan),
            admission,
            self._settings.app.drain_s,
            draining=self._health.draining,
            closing=self._memory.watchers.close,
            is_node_stopping=is_node_stopping,
            handshakes=self._callers.handshakes(admission),
        )

    def _parts(self) -> Parts:
        settings, memory = self._settings, self._memory
        mirror, follower, unknown = memory.mirror, self._follower, self._unknown_names
        resolver = Resolver(mirror, follower, self._route_cache(), self._store, self._reads, unknown)
        return Parts(
            settings=settings,
            metrics=self._metrics,
            health=self._health,
            mirror=mirror,
            follower=follower,
            watchers=memory.watchers,
            resolver=resolver,
            batch_resolver=BatchResolver(resolver, mirror, follower, self._store, self._reads, unknown),
            registry=self._registry,
            store=self._store,
            reads=self._reads,
            url_policy=UrlPolicy(settings.app.url_schemes, settings.app.url_deny_loopback, memory.url_hosts),
            gate=self._callers.gate,
            proxies=TrustedProxies(settings.api.trusted_proxies, settings.api.forwarded_header),
            key_registry=KeyRegistry(
                SqlKeyStore(self._database), settings.pepper, self._committed, memory.limits.keys
            ),
            limiter=self._callers.limiter,
            limit_registry=LimitRegistry(SqlLimitStore(self._database), self._committed),
            page_tokens=PageTokens(settings.pepper),
            beat=self._beat,
            overload=self._overload,
            turns=Turns(self._metrics, self._overload),
            access_log=AccessLog(settings.api.access_log_share),
            tracing=self._tracing,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_ASIDE_THREADS, thread_name_prefix="aside"))
        self._database.open()
        upkeep = asyncio.gather(self._keep_beating(), self._overload.watch(), *self._callers.keeping_up())
        upkeep.add_done_callback(_log_end_of_upkeep)
        self._follower.start()
        self._registry.start()
        await self._catch_up()
        readiness = self._loop.create_task(self._turn_ready())
        readiness.add_done_callback(_log_failure)
        try:
            yield
        finally:
            readiness.cancel()
            await asyncio.gather(readiness, return_exceptions=True)
            # On threads: each waits for its own thread to end, and some of those wait for this loop.
            for close in self._closings():
                await asyncio.to_thread(close)
            if self._redis:
                await self._redis.close()
            await asyncio.to_thread(self._database.close)
            if self._tracing:
                await asyncio.to_thread(self._tracing.close)
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)

    async def _keep_beating(self) -> None:
        while self._beat is not None:
            self._beat()
            await asyncio.sleep(_BEAT_S)

    async def _catch_up(self) -> None:
        """With a table from the parent, wait a moment for what is newer before the first connection is accepted:
        other workers answer meanwhile."""
        if self._memory.mirror.head is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP_PATIENCE_S):
                    await self._follower.synchronised.wait()

    def _closings(self) -> list[Callable[[], object]]:
        """Return what to stop, in order: first whoever makes changes, last whoever tells of them."""
        relay = [self._outbox.close] if self._outbox else []
        return [self._registry.stop, *relay, self._system.stop, self._follower.stop, self._reads.close]

    async def _turn_ready(self) -> None:
        """Turn ready once the mirror is synchronised; without a database keep trying, alive but not ready."""
        try:
            async with asyncio.timeout(_SYNCHRONISE_PATIENCE_S):
                await self._follower.synchronised.wait()
        except TimeoutError:
            log.warning("not_synchronised_yet", reason="the database is away, or its table is large")
        self._system.start()
        if self._outbox and self._settings.app.relay == "embedded":
            self._outbox.start_relay()
        await self._follower.synchronised.wait()
        if self._follower.refusal:
            log.error("start_refused", reason=str(self._follower.refusal))
            self._exit_code = EXIT_REFUSED
            self._server.should_exit = True
            return
        # What lives now lives on: the collector need not look at it again, which takes 50 ms and more.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
        self._health.started()
        log.info("ready", revision=self._memory.mirror.applied)

    def _committed(self, revision: int) -> None:
        self._follower.wake(revision)
        if self._outbox:
            self._outbox.wake(revision)

    def _route_cache(self) -> RedisRouteCache | None:
        if self._redis is None:
            return None
        from traffic_manager.cache.route_cache import RedisRouteCache

        return RedisRouteCache(self._redis, self._settings.cache, self._rejected, self._settings.pepper)

    def _rejected(self, reason: str) -> None:
        self._metrics.tm_cache_rejected_total.labels(reason).inc()

    def _checks(self) -> dict[str, Check]:
        return {
            DATABASE: partial(check_database, self._database),
            "cache": self._check_cache if self._redis else not_configured,
            "kafka": self._outbox.check if self._outbox else not_configured,
            "mirror": partial(check_mirror, self._memory.mirror),
        }

    def _check_cache(self) -> CheckResult:
        assert self._redis is not None and self._loop is not None  # noqa: S101, PT018 set before the first probe
        return check_cache(self._redis, self._loop, self._metrics)

    def _sources(self) -> dict[str, Source]:
        metrics, memory = self._metrics, self._memory
        mirror = MirrorGauges(
            metrics, memory.mirror, self._follower, memory.watchers, self._unknown_names, self._database
        )
        sources: dict[str, Source] = {
            "health": self._health.probe,
            "pool": partial(measure_pool, metrics, self._database, self._redis),
            "mirror": mirror.measure,
            "snapshot": partial(measure_snapshot, metrics, self._settings.snapshot_path),
            "overload": self._measure_overload,
        }
        if key_keeper := self._callers.key_keeper:
            sources["issuers"] = lambda: metrics.tm_issuer_keys_age_seconds.set(key_keeper.age_s)
        if outbox := self._outbox:
            sources["outbox"] = lambda: outbox.measure_backlog(self._follower.head_revision)
        return sources

    def _measure_overload(self) -> None:
        self._metrics.tm_loop_delay_seconds.set(self._overload.standing_s)
        self._metrics.tm_connections.set(self._server.connections)
        self._lines.count(self._dropped_lines())


def import_parts(settings: Settings) -> None:
    """Import what a worker imports when it needs it, for a parent to do once: the client of Redis alone takes 10 MB
    and 0.1 s in each worker else."""
    modules = ["uvicorn.lifespan.on", "uvicorn.loops.uvloop"]
    if settings.redis.host:
        modules += [f"traffic_manager.cache.{name}" for name in ("route_cache", "shared_budgets")]
    if settings.kafka.bootstrap_servers:
        modules += [f"traffic_manager.events.{name}" for name in ("kafka_probe", "kafka_producer", "relay")]
    if settings.auth.issuers_file:
        modules += ["traffic_manager.access.tokens", "traffic_manager.providers.key_keeper"]
    if settings.traces.is_on:
        modules.append("traffic_manager.monitoring.tracing")
    for module in modules:
        import_module(module)


def _redis_client(settings: RedisSettings) -> RedisClient:
    # Here, because the client library is an extra that only users of Redis install.
    from traffic_manager.cache.redis_client import RedisClient

    return RedisClient(settings)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("never_ready", exc_info=error)


def _log_end_of_upkeep(upkeep: asyncio.Future[list[None]]) -> None:
    # What `gather` returns is not cancelled when it was: it has failed, with a CancelledError.
    error = None if upkeep.cancelled() else upkeep.exception()
    if error is not None and not isinstance(error, asyncio.CancelledError):
        log.error("upkeep_failed", exc_info=error)
