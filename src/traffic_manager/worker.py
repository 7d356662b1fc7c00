"""One worker process: its parts, joined, opened and closed. `main` starts one, or several."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI

from traffic_manager.access.client_names import ClientNames
from traffic_manager.access.key_registry import KeyRegistry
from traffic_manager.access.limit_registry import LimitRegistry
from traffic_manager.access.limiter import Limiter
from traffic_manager.api.access import Gate
from traffic_manager.api.admission import Admission
from traffic_manager.api.app import build_app
from traffic_manager.api.context import Parts
from traffic_manager.api.handshakes import Handshakes
from traffic_manager.api.origin import TrustedProxies
from traffic_manager.api.pages import PageTokens
from traffic_manager.api.server import Server, admission_to
from traffic_manager.config.settings import RedisSettings, Settings
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.limit_store import SqlLimitStore
from traffic_manager.db.migrate import check_schema
from traffic_manager.db.pool import Counters, open_database
from traffic_manager.db.store import SqlStore
from traffic_manager.inheritance import Memory
from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.monitoring.health import (
    DATABASE,
    Check,
    CheckResult,
    CheckStatus,
    Health,
    not_configured,
)
from traffic_manager.monitoring.metrics import Freshness, Metrics, Outcome
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
    from traffic_manager.api.certificates import Loaded
    from traffic_manager.cache.redis_client import RedisClient
    from traffic_manager.cache.route_cache import RedisRouteCache
    from traffic_manager.providers.key_keeper import KeyKeeper

# Connections of the pool that are not for reads: writer, relay, probe.
_RESERVED_CONNECTIONS = 3
_READ_PATIENCE_S = 0.25
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
        self._database = open_database(settings.db, counters_of(metrics))
        tracing = self._tracing = open_tracing(settings.traces, metrics)
        record = None if tracing is None else tracing.recorder("store.write", Kind.CLIENT, {})
        store = SqlStore(self._database, record)
        self._beat = beat
        self._certificates = memory.certificates
        self._client_names = None if memory.keyring is None else ClientNames(memory.keyring.admitted)
        self._key_keeper: KeyKeeper | None = None
        gate = self._gate(memory)
        self._mirror = memory.mirror
        metrics.tm_bad_row_total.inc(memory.bad_rows)
        self._unknown_names = UnknownNames(settings.app.unknown_names_per_second)
        feed = SqlFeed(self._database, metrics.tm_bad_row_total.inc, listens=True)
        self._watchers = memory.watchers
        self._follower = Follower(
            feed,
            self._mirror,
            _FollowerMetrics(metrics),
            self._watchers,
            memory.keyring,
            memory.limits,
            at_head=memory.at_head,
        )
        self._redis = _redis_client(settings.redis) if settings.redis.host else None
        self._reads = Bulkhead("read", settings.db.pool_max - _RESERVED_CONNECTIONS, _READ_PATIENCE_S)
        self._outbox = (
            Outbox(settings.kafka, self._database, metrics, tracing)
            if settings.kafka.bootstrap_servers
            else None
        )
        self._registry = Registry(store, self._committed, memory.limits.routes)
        self._health = Health(self._checks(), was_database_reached=self._mirror.head is not None)
        self._system = SystemMetrics(metrics, self._sources(), interval_s=_PROBE_EVERY_S)
        self._evictions = _Growth(metrics.tm_mirror_evictions_total.inc)
        self._dropped_lines = dropped_lines
        self._lines = _Growth(metrics.tm_log_dropped_total.inc)
        self._refusals = _Growth(metrics.tm_unknown_names_refused_total.inc)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_code = 0
        self._overload = Overload(metrics)
        self._limiter = Limiter(
            memory.limits,
            settings.api.workers * settings.limit.nodes,
            lambda kind: metrics.tm_rate_limited_total.labels(kind).inc(),
            leases=self._redis is not None,
        )
        resolver = Resolver(
            self._mirror, self._follower, self._route_cache(), store, self._reads, self._unknown_names
        )
        parts = Parts(
            settings=settings,
            metrics=metrics,
            health=self._health,
            mirror=self._mirror,
            follower=self._follower,
            watchers=self._watchers,
            resolver=resolver,
            batch_resolver=BatchResolver(
                resolver, self._mirror, self._follower, store, self._reads, self._unknown_names
            ),
            registry=self._registry,
            store=store,
            reads=self._reads,
            url_policy=UrlPolicy(settings.app.url_schemes, settings.app.url_deny_loopback, memory.url_hosts),
            gate=gate,
            proxies=TrustedProxies(settings.api.trusted_proxies, settings.api.forwarded_header),
            key_registry=KeyRegistry(
                SqlKeyStore(self._database), settings.pepper, self._committed, memory.limits.keys
            ),
            limiter=self._limiter,
            limit_registry=LimitRegistry(SqlLimitStore(self._database), self._committed),
            page_tokens=PageTokens(settings.pepper),
            beat=beat,
            overload=self._overload,
            access_log=AccessLog(settings.api.access_log_share),
            tracing=tracing,
        )
        admission = admission_to(parts)
        self._server = Server(
            build_app(parts, self._lifespan),
            admission,
            settings.app.drain_s,
            draining=self._health.draining,
            closing=self._watchers.close,
            is_node_stopping=is_node_stopping,
            handshakes=self._handshakes(admission),
        )

    def run(self, listener: socket.socket) -> int:
        """Serve until told to stop; return the exit code."""
        sys.setswitchinterval(_SWITCH_S)
        self._server.serve_on(listener)
        return self._exit_code

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_ASIDE_THREADS, thread_name_prefix="aside"))
        self._database.open()
        heart = asyncio.gather(
            self._keep_beating(),
            self._overload.watch(),
            self._watch_certificates(),
            self._keep_keys(),
            *self._leasing(),
        )
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
            heart.cancel()
            await asyncio.gather(heart, return_exceptions=True)

    def _leasing(self) -> list[Coroutine[None, None, None]]:
        """Return what shares the limits with other workers, where there is Redis."""
        if self._redis is None:
            return []
        from traffic_manager.cache.shared_budgets import SharedBudgets

        return [SharedBudgets(self._redis, self._limiter).run()]

    async def _keep_beating(self) -> None:
        while self._beat is not None:
            self._beat()
            await asyncio.sleep(_BEAT_S)

    async def _watch_certificates(self) -> None:
        if self._certificates is not None:
            await self._certificates.watch(self._metrics, self._take_names)

    def _gate(self, memory: Memory) -> Gate:
        if memory.keyring is None or not memory.issuers:
            return Gate(memory.keyring, self._client_names)
        # Here, because their libraries take 0.1 s and 11 MB.
        from traffic_manager.access.tokens import Tokens
        from traffic_manager.providers.key_keeper import KeyKeeper

        tokens = Tokens(memory.issuers, memory.keyring.admitted)
        self._key_keeper = KeyKeeper(memory.issuers, tokens, self._metrics)
        return Gate(memory.keyring, self._client_names, tokens, self._key_keeper.ask)

    async def _keep_keys(self) -> None:
        if self._key_keeper is not None:
            await self._key_keeper.run()

    def _take_names(self, loaded: Loaded) -> None:
        if self._client_names is not None:
            self._client_names.load(loaded.grants)

    def _handshakes(self, admission: Admission) -> Handshakes | None:
        if (certificates := self._certificates) is None:
            return None
        return Handshakes(admission, lambda: certificates.loaded.context, self._metrics)

    async def _catch_up(self) -> None:
        """With a table from the parent, wait a moment for what is newer before the first connection is accepted:
        other workers answer meanwhile."""
        if self._mirror.head is not None:
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
        self._health.started()
        log.info("ready", revision=self._mirror.applied)

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
            DATABASE: self._check_database,
            "cache": self._check_cache if self._redis else not_configured,
            "kafka": self._outbox.check if self._outbox else not_configured,
            "mirror": self._check_mirror,
        }

    def _check_database(self) -> CheckResult:
        with self._database.reading() as session:
            check_schema(session, self._database.dialect)
        stats = self._database.stats()
        pool = {
            "size": stats.size,
            "available": stats.available,
            "in_use": stats.in_use,
            "waiting": stats.waiting,
        }
        return CheckResult(CheckStatus.HEALTHY, "Database is accessible", pool)

    def _check_cache(self) -> CheckResult:
        assert self._redis is not None and self._loop is not None  # noqa: S101, PT018 set before the first probe
        is_up = asyncio.run_coroutine_threadsafe(self._redis.ping(), self._loop).result(timeout=2.0)
        self._metrics.cache_connected.set(is_up)
        if not is_up:
            return CheckResult(CheckStatus.DEGRADED, "Redis does not answer; reads do without it")
        return CheckResult(CheckStatus.HEALTHY, "Cache is accessible")

    def _check_mirror(self) -> CheckResult:
        mirror = self._mirror
        if mirror.head is None:
            return CheckResult(CheckStatus.DEGRADED, "not synchronised yet; the database answers")
        if not mirror.max_routes:
            return CheckResult(CheckStatus.DISABLED, "holds no routes (MIRROR_MAX_ROUTES=0)")
        if mirror.is_complete:
            return CheckResult(CheckStatus.HEALTHY, f"complete: all {len(mirror)} active routes")
        held = f"bounded: {len(mirror)} of {mirror.active_routes} active routes"
        return CheckResult(CheckStatus.HEALTHY, f"{held}; MIRROR_MAX_ROUTES={mirror.max_routes}")

    def _sources(self) -> dict[str, Source]:
        sources = {"health": self._health.probe, "pool": self._measure_pool, "mirror": self._measure_mirror}
        sources |= {"issuers": self._measure_issuers} if self._key_keeper else {}
        sources |= {"snapshot": self._measure_snapshot, "overload": self._measure_overload}
        return sources | ({"outbox": self._measure_outbox} if self._outbox else {})

    def _measure_pool(self) -> None:
        stats = self._database.stats()
        self._metrics.db_pool_size.set(stats.size)
        self._metrics.db_pool_available.set(stats.available)
        self._metrics.db_pool_in_use.set(stats.in_use)
        states = self._metrics.tm_breaker_state
        states.labels("database").set(self._database.is_left_alone)
        states.labels("cache").set(self._redis is not None and self._redis.is_left_alone)

    def _measure_overload(self) -> None:
        self._metrics.tm_loop_delay_seconds.set(self._overload.standing_s)
        self._metrics.tm_connections.set(self._server.connections)
        self._lines.count(self._dropped_lines())

    def _measure_issuers(self) -> None:
        assert self._key_keeper is not None  # noqa: S101 a source only then
        self._metrics.tm_issuer_keys_age_seconds.set(self._key_keeper.age_s)

    def _measure_snapshot(self) -> None:
        path = self._settings.snapshot_path
        with suppress(OSError):  # none has been written yet, or it is being replaced
            age_s = time.time() - path.stat().st_mtime if path else 0.0
            self._metrics.tm_snapshot_age_seconds.set(age_s)

    def _measure_mirror(self) -> None:
        self._metrics.tm_applied_revision.set(self._mirror.applied)
        self._metrics.tm_head_revision.set(max(self._follower.head_revision, self._mirror.applied))
        self._metrics.tm_mirror_routes.set(len(self._mirror))
        self._metrics.tm_watchers.set(len(self._watchers))
        self._metrics.tm_mirror_complete.set(self._mirror.is_complete)
        self._metrics.tm_active_routes.set(self._mirror.active_routes)
        self._evictions.count(self._mirror.recent.evictions)
        self._refusals.count(self._unknown_names.refusals)
        staleness_s = self._follower.staleness_s()
        if staleness_s is not None:
            self._metrics.tm_staleness_seconds.set(staleness_s)
        for state in Freshness:
            self._metrics.tm_state.labels(state).set(state is self._freshness())

    def _freshness(self) -> Freshness:
        if self._follower.stale_age_s() is None:
            return Freshness.FRESH
        return Freshness.STALE if self._database.is_left_alone else Freshness.LAGGING

    def _measure_outbox(self) -> None:
        assert self._outbox is not None  # noqa: S101 a source only then
        self._outbox.measure_backlog(self._follower.head_revision)


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


def counters_of(metrics: Metrics) -> Counters:
    """Return what the database's pool counts into."""
    return Counters(
        metrics.db_queries_total.inc,
        metrics.db_connection_errors_total.inc,
        metrics.tm_pool_wait_seconds.observe,
        metrics.tm_pool_replaced_total.inc,
    )


class _Growth:
    """Counts by how much a number of ours has grown: adding one to a metric costs more than a resolve."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add
        self._counted = 0

    def count(self, total: int) -> None:
        """Add what is above the last *total*."""
        self._add(total - self._counted)
        self._counted = total


class _FollowerMetrics:
    """Counts what the follower reports."""

    def __init__(self, metrics: Metrics) -> None:
        self._polls = {
            True: metrics.tm_follower_polls_total.labels(Outcome.OK),
            False: metrics.tm_follower_polls_total.labels(Outcome.FAILED),
        }
        self.gap = metrics.tm_revision_gap_total.inc
        self.fork = metrics.tm_history_fork_total.inc
        self.hinted = metrics.tm_follower_hinted.set
        self.hint_missed = metrics.tm_follower_hint_missed_total.inc

    def polled(self, ok: bool) -> None:
        """Count a poll."""
        self._polls[ok].inc()
