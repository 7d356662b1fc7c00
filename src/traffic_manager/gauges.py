"""What a worker's metrics are set from: what its parts report, and what is measured of them now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from traffic_manager.db.pool import Counters, Database
from traffic_manager.monitoring.label_values import Freshness, Outcome
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.routing.follower import Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.unknown_names import UnknownNames
from traffic_manager.routing.watchers import Watchers

if TYPE_CHECKING:
    from traffic_manager.cache.redis_client import RedisClient


def counters_of(metrics: Metrics) -> Counters:
    """Return what the database's pool counts into."""
    return Counters(
        metrics.db_queries_total.inc,
        metrics.db_connection_errors_total.inc,
        metrics.tm_pool_wait_seconds.observe,
        metrics.tm_pool_replaced_total.inc,
    )


class Growth:
    """Counts by how much a number of ours has grown: adding one to a metric costs more than a resolve."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add
        self._counted = 0

    def count(self, total: int) -> None:
        """Add what is above the last *total*."""
        self._add(total - self._counted)
        self._counted = total


class FollowerCounts:
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


class MirrorGauges:
    """What the mirror holds, how far it has followed the log, and who waits for it."""

    def __init__(
        self,
        metrics: Metrics,
        mirror: Mirror,
        follower: Follower,
        watchers: Watchers,
        unknown_names: UnknownNames,
        database: Database,
    ) -> None:
        self._metrics = metrics
        self._mirror = mirror
        self._follower = follower
        self._watchers = watchers
        self._unknown_names = unknown_names
        self._database = database
        self._evictions = Growth(metrics.tm_mirror_evictions_total.inc)
        self._refusals = Growth(metrics.tm_unknown_names_refused_total.inc)

    def measure(self) -> None:
        """Set them all."""
        metrics, mirror = self._metrics, self._mirror
        metrics.tm_applied_revision.set(mirror.applied)
        metrics.tm_head_revision.set(max(self._follower.head_revision, mirror.applied))
        metrics.tm_mirror_routes.set(len(mirror))
        metrics.tm_watchers.set(len(self._watchers))
        metrics.tm_mirror_complete.set(mirror.is_complete)
        metrics.tm_active_routes.set(mirror.active_routes)
        self._evictions.count(mirror.recent.evictions)
        self._refusals.count(self._unknown_names.refusals)
        staleness_s = self._follower.staleness_s()
        if staleness_s is not None:
            metrics.tm_staleness_seconds.set(staleness_s)
        freshness = self._freshness()
        for state in Freshness:
            metrics.tm_state.labels(state).set(state is freshness)

    def _freshness(self) -> Freshness:
        if self._follower.stale_age_s() is None:
            return Freshness.FRESH
        return Freshness.STALE if self._database.is_left_alone else Freshness.LAGGING


def measure_pool(metrics: Metrics, database: Database, redis: RedisClient | None) -> None:
    """Set the gauges of connections to the database, and of what is left alone because it failed."""
    stats = database.stats()
    metrics.db_pool_size.set(stats.size)
    metrics.db_pool_available.set(stats.available)
    metrics.db_pool_in_use.set(stats.in_use)
    states = metrics.tm_breaker_state
    states.labels("database").set(database.is_left_alone)
    states.labels("cache").set(redis is not None and redis.is_left_alone)


def measure_snapshot(metrics: Metrics, path: Path | None) -> None:
    """Set the gauge of the snapshot's age; 0 if there shall be none."""
    with suppress(OSError):  # none has been written yet, or it is being replaced
        age_s = time.time() - path.stat().st_mtime if path else 0.0
        metrics.tm_snapshot_age_seconds.set(age_s)
