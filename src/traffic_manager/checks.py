"""What a worker's health is told from: a look at each thing that it depends on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from traffic_manager.db.migrate import check_schema
from traffic_manager.db.pool import Database
from traffic_manager.monitoring.health import CheckResult, CheckStatus
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.mirror import Mirror

if TYPE_CHECKING:
    from traffic_manager.cache.redis_client import RedisClient

_PING_PATIENCE_S = 2.0


def check_database(database: Database) -> CheckResult:
    """Return how the database is, with the numbers of its pool. Raises SchemaMismatch and SourceUnavailable."""
    with database.reading() as session:
        check_schema(session, database.dialect)
    stats = database.stats()
    pool = {
        "size": stats.size,
        "available": stats.available,
        "in_use": stats.in_use,
        "waiting": stats.waiting,
    }
    return CheckResult(CheckStatus.HEALTHY, "Database is accessible", pool)


def check_cache(redis: RedisClient, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> CheckResult:
    """Return how Redis is, which is asked on *loop*; sets the gauge of it too."""
    is_up = asyncio.run_coroutine_threadsafe(redis.ping(), loop).result(_PING_PATIENCE_S)
    metrics.cache_connected.set(is_up)
    if not is_up:
        return CheckResult(CheckStatus.DEGRADED, "Redis does not answer; reads do without it")
    return CheckResult(CheckStatus.HEALTHY, "Cache is accessible")


def check_mirror(mirror: Mirror) -> CheckResult:
    """Return how much of the table is in memory."""
    if mirror.head is None:
        return CheckResult(CheckStatus.DEGRADED, "not synchronised yet; the database answers")
    if not mirror.max_routes:
        return CheckResult(CheckStatus.DISABLED, "holds no routes (MIRROR_MAX_ROUTES=0)")
    if mirror.is_complete:
        return CheckResult(CheckStatus.HEALTHY, f"complete: all {len(mirror)} active routes")
    held = f"bounded: {len(mirror)} of {mirror.active_routes} active routes"
    return CheckResult(CheckStatus.HEALTHY, f"{held}; MIRROR_MAX_ROUTES={mirror.max_routes}")
