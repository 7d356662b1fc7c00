"""Figures of a node from its metrics: what it did between two looks at them, and how it stands."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

Buckets = Mapping[float, float]


@dataclass(frozen=True)
class Sample:
    """The metrics of one moment, *at_s* on the monotonic clock: each summed over its labels, histograms by bucket."""

    at_s: float
    values: Mapping[str, float]
    buckets: Mapping[str, Buckets]


@dataclass(frozen=True)
class Figures:
    """What a node did, in times a second and seconds, and how it stands. None: nothing was done that could be
    measured."""

    resolves: float
    resolve_p50_s: float | None
    resolve_p99_s: float | None
    hit_ratio: float | None
    flagged: float
    writes: float
    write_p50_s: float | None
    write_p99_s: float | None
    write_failures: float
    head_revision: int
    applied_revision: int
    staleness_s: float
    outbox_lag_events: int
    outbox_lag_s: float
    pool_in_use: int
    pool_size: int
    connections: int
    watchers: int
    shed: float
    routes: int


def sample_of(text: str) -> Sample:
    """Return the sample that *text*, of `/metrics` now, makes. Raises ValueError if it is none."""
    from prometheus_client.parser import text_string_to_metric_families

    values: dict[str, float] = defaultdict(float)
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name.endswith("_bucket"):
                buckets[family.name][float(found.labels["le"])] += found.value
            else:
                values[found.name] += found.value
    if "resolve_requests_total" not in values:
        raise ValueError("these are not Traffic Manager's metrics")
    return Sample(time.monotonic(), values, buckets)


def figures(before: Sample, now: Sample) -> Figures:
    """Return what was done from *before* until *now*. A node that was started again meanwhile has done what its
    counters say."""
    resolves = _rise(before, now, "resolve_requests_total")
    hits = sum(
        _rise(before, now, name) for name in ("resolve_cache_hit_total", "resolve_negative_cache_hit_total")
    )
    value = now.values.get
    return Figures(
        resolves=resolves,
        resolve_p50_s=_quantile(before, now, "resolve_latency_seconds", 0.5),
        resolve_p99_s=_quantile(before, now, "resolve_latency_seconds", 0.99),
        hit_ratio=min(1.0, hits / resolves) if resolves else None,
        flagged=_rise(before, now, "tm_resolve_flagged_total"),
        writes=_rise(before, now, "write_requests_total"),
        write_p50_s=_quantile(before, now, "write_latency_seconds", 0.5),
        write_p99_s=_quantile(before, now, "write_latency_seconds", 0.99),
        write_failures=_rise(before, now, "write_failure_total"),
        head_revision=int(value("tm_head_revision", 0)),
        applied_revision=int(value("tm_applied_revision", 0)),
        staleness_s=value("tm_staleness_seconds", 0.0),
        outbox_lag_events=int(value("tm_outbox_lag_events", 0)),
        outbox_lag_s=value("tm_outbox_lag_seconds", 0.0),
        pool_in_use=int(value("db_pool_in_use", 0)),
        pool_size=int(value("db_pool_size", 0)),
        connections=int(value("tm_connections", 0)),
        watchers=int(value("tm_watchers", 0)),
        shed=_rise(before, now, "tm_shed_total"),
        routes=int(value("tm_active_routes", 0)),
    )


def _rise(before: Sample, now: Sample, name: str) -> float:
    """Return by how much a counter rose, in a second."""
    risen = _delta(before.values.get(name, 0.0), now.values.get(name, 0.0))
    return risen / max(now.at_s - before.at_s, 1e-9)


def _delta(before: float, now: float) -> float:
    return now - before if now >= before else now


def _quantile(before: Sample, now: Sample, name: str, share: float) -> float | None:
    """Return below which value *share* of what was measured meanwhile lies, by straight lines within the buckets, as
    Prometheus does it; beyond the last bucket, its bound."""
    old = before.buckets.get(name, {})
    counts = [
        (bound, _delta(old.get(bound, 0.0), count))
        for bound, count in sorted(now.buckets.get(name, {}).items())
    ]
    wanted = share * counts[-1][1] if counts else 0.0
    if not wanted:
        return None
    low, below = 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low
