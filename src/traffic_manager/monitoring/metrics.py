"""Every metric of the server, under the names that `docs/metrics.md` explains; `main` builds one per worker.

Without a parent the numbers live in this process. With one, each worker keeps its numbers in files of a
shared directory, named by the worker's *index*: whoever is scraped shows the sum over all, a restarted worker
goes on with its predecessor's counters, and the number of files never grows (`metric_files.py`).

Who starts the workers calls `metric_files.clear` once before the first, and `forget_worker` when one has died. A
worker builds its `Metrics` after the fork, and two living processes never have the same index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from traffic_manager.monitoring import metric_files, resolve_counts
from traffic_manager.monitoring.label_values import (
    AccessRefusal,
    CacheRejection,
    Freshness,
    HandshakeFailure,
    Limited,
    Load,
    Outcome,
    RetellingReason,
    StreamEnd,
)
from traffic_manager.monitoring.resolve_counts import (
    LANE_STATUSES,
    RESOLVE_BUCKETS,
    RESOLVE_ENDPOINT,
    ResolveCounts,
)

METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
OTHER_METHOD = "other"
UNMATCHED = "unmatched"
ACTIONS = ("created", "updated", "activated", "deactivated", "deleted")

# Upper bounds in seconds. A write takes 0.5 to 5 ms; a long poll of the changes up to 30 s.
WRITE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
REQUEST_BUCKETS = (*WRITE_BUCKETS, 5.0, 10.0, 30.0)

_Mode = Literal["livemax", "livemin", "livesum"]


class Metrics:
    """The metrics of worker number *worker*, in this process or in *directory*. Attributes bear the metrics'
    names. *monotonic*: seconds on a clock that all processes of this machine share."""

    content_type: ClassVar[str] = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(
        self,
        directory: Path | None = None,
        worker: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Else every counter publishes a second name. (The library leaves the function untyped.)
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._directory = directory
        self._monotonic = monotonic
        self._started = monotonic() if directory is None else metric_files.server_start(directory, monotonic)
        self._registry = CollectorRegistry()
        self._bound: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        if directory is not None:
            metric_files.prepare(directory, worker)
        self._value_class = metric_files.value_class(directory, worker)
        self._counts = ResolveCounts(directory / f"resolve_{worker}.cells" if directory else None)
        self.resolved = self._counts.resolved
        self.resolved_in_batch = self._counts.resolved_in_batch
        self._build()

    def _build(self) -> None:
        self._use_own_values()
        self._build_resolve()
        self._build_writes()
        self._build_dependencies()
        self._build_requests()
        self._build_revisions()

    def _build_resolve(self) -> None:
        self.resolve_requests_total = self._counter("resolve_requests_total", "Resolves answered.")
        self.resolve_cache_hit_total = self._counter(
            "resolve_cache_hit_total", "Resolves answered with a route from memory or Redis."
        )
        self.resolve_cache_miss_total = self._counter(
            "resolve_cache_miss_total", "Resolves that read the database."
        )
        self.resolve_negative_cache_hit_total = self._counter(
            "resolve_negative_cache_hit_total", "Resolves answered 'no active route' from memory or Redis."
        )
        self.resolve_latency_seconds = self._histogram(
            "resolve_latency_seconds", "Time to answer a resolve.", RESOLVE_BUCKETS
        )
        self.tm_resolve_flagged_total = self._counter(
            "tm_resolve_flagged_total", "Resolves answered with TM-Stale."
        )
        self.tm_cache_rejected_total = self._counter(
            "tm_cache_rejected_total", "Values from Redis that were not used.", reason=CacheRejection
        )

    def _build_writes(self) -> None:
        self.write_requests_total = self._counter("write_requests_total", "Changes asked for.")
        self.write_success_total = self._counter(
            "write_success_total", "Changes answered with success, no-ops too."
        )
        self.tm_access_refused_total = self._counter(
            "tm_access_refused_total", "Requests refused for who asked.", reason=AccessRefusal
        )
        self.write_failure_total = self._counter("write_failure_total", "Changes refused or failed.")
        self.tm_write_replays_total = self._counter(
            "tm_write_replays_total", "Changes that had been made before, under the same idempotency key."
        )
        self.write_latency_seconds = self._histogram(
            "write_latency_seconds", "Time to answer a change, after its commit.", WRITE_BUCKETS
        )
        self.kafka_events_published_total = self._counter(
            "kafka_events_published_total", "Events that Kafka acknowledged.", action=ACTIONS
        )
        self.kafka_events_failed_total = self._counter(
            "kafka_events_failed_total", "Attempts to send an event that failed.", action=ACTIONS
        )

    def _build_dependencies(self) -> None:
        self.db_queries_total = self._counter("db_queries_total", "Statements sent to the database.")
        self.db_connection_errors_total = self._counter(
            "db_connection_errors_total", "Database connections that failed or broke."
        )
        self.db_pool_size = self._gauge("db_pool_size", "Open pool connections, all workers.", "livesum")
        self.db_pool_available = self._gauge(
            "db_pool_available", "Idle pool connections, all workers.", "livesum"
        )
        self.db_pool_in_use = self._gauge("db_pool_in_use", "Lent pool connections, all workers.", "livesum")
        self.tm_pool_wait_seconds = self._histogram(
            "tm_pool_wait_seconds",
            "Time that a database connection of the pool was waited for.",
            WRITE_BUCKETS,
        )
        self.tm_pool_replaced_total = self._counter(
            "tm_pool_replaced_total", "Pools that did not find back to the database and were replaced."
        )
        self.tm_breaker_state = self._states(
            "tm_breaker_state", "1 if a worker leaves it alone.", "livemax", dependency=("database", "cache")
        )
        self.cache_connected = self._gauge("cache_connected", "1 if every worker reaches Redis.", "livemin")
        self.kafka_producer_ready = self._gauge(
            "kafka_producer_ready", "1 if a worker can send events to Kafka.", "livemax"
        )
        self.application_uptime_seconds = self._gauge(
            "application_uptime_seconds", "Time since the server started.", "livemax"
        )

    def _build_requests(self) -> None:
        self.api_requests_total = self._labelled_counter(
            "api_requests_total", "HTTP requests answered.", ("method", "endpoint", "status_code")
        )
        self.api_request_duration_seconds = Histogram(
            "api_request_duration_seconds",
            "Time to answer an HTTP request.",
            ("method", "endpoint"),
            registry=self._registry,
            buckets=REQUEST_BUCKETS,
        )
        self._build_overload()
        self._build_tls()
        for status in LANE_STATUSES:
            self._bind("GET", RESOLVE_ENDPOINT, status)

    def _build_overload(self) -> None:
        self.tm_loop_delay_seconds = self._gauge(
            "tm_loop_delay_seconds", "Longest time that a request waits for its turn.", "livemax"
        )
        self.tm_shed_total = self._counter(
            "tm_shed_total", "Requests refused because too much is going on.", **{"class": Load}
        )
        self.tm_connections = self._gauge("tm_connections", "Open connections of clients.", "livesum")
        self.tm_connections_refused_total = self._counter(
            "tm_connections_refused_total", "Connections beyond API_MAX_CONNECTIONS."
        )
        self.tm_connections_refused_by_address_total = self._counter(
            "tm_connections_refused_by_address_total", "Connections beyond API_MAX_CONNECTIONS_PER_ADDRESS."
        )
        self.tm_rate_limited_total = self._counter(
            "tm_rate_limited_total", "Requests beyond a limit of a tenant or a principal.", kind=Limited
        )
        self.tm_log_dropped_total = self._counter(
            "tm_log_dropped_total", "Log lines that nobody took in time."
        )
        self.tm_spans_total = self._counter(
            "tm_spans_total",
            "Spans of traces that were sent to the collector, or were to be.",
            outcome=Outcome,
        )

    def _build_tls(self) -> None:
        self.tm_tls_handshakes_failed_total = self._counter(
            "tm_tls_handshakes_failed_total", "TLS handshakes that failed.", reason=HandshakeFailure
        )
        self.tm_tls_reloads_total = self._counter(
            "tm_tls_reloads_total", "Times that changed TLS files were read, by each worker.", outcome=Outcome
        )
        self.tm_tls_certificate_expires_seconds = self._gauge(
            "tm_tls_certificate_expires_seconds",
            "When the server's certificate ends, seconds since 1970; 0 without TLS.",
            "livemin",
        )
        self.tm_issuer_fetches_total = self._counter(
            "tm_issuer_fetches_total", "Times that an issuer was asked for its keys.", outcome=Outcome
        )
        self.tm_issuer_keys_age_seconds = self._gauge(
            "tm_issuer_keys_age_seconds", "Longest time since an issuer told its keys.", "livemax"
        )

    def _build_revisions(self) -> None:
        self.tm_applied_revision = self._gauge(
            "tm_applied_revision", "Revision that the slowest worker has applied.", "livemin"
        )
        self.tm_head_revision = self._gauge("tm_head_revision", "Newest revision seen.", "livemax")
        self.tm_staleness_seconds = self._gauge(
            "tm_staleness_seconds", "Longest time since a worker was known to be at the head.", "livemax"
        )
        self.tm_state = self._states("tm_state", "Workers in this state.", "livesum", state=Freshness)
        self.tm_mirror_routes = self._gauge("tm_mirror_routes", "Routes in the largest mirror.", "livemax")
        self.tm_snapshot_age_seconds = self._gauge(
            "tm_snapshot_age_seconds", "Time since the table was last kept on disk.", "livemax"
        )
        self.tm_mirror_complete = self._gauge(
            "tm_mirror_complete", "1 if every worker holds all active routes.", "livemin"
        )
        self.tm_mirror_evictions_total = self._counter(
            "tm_mirror_evictions_total", "Routes that a bounded mirror has dropped for others."
        )
        self.tm_active_routes = self._gauge("tm_active_routes", "Active routes, held or not.", "livemax")
        self.tm_unknown_names_refused_total = self._counter(
            "tm_unknown_names_refused_total", "Resolves refused after too many names without a route."
        )
        self.tm_follower_polls_total = self._counter(
            "tm_follower_polls_total", "Polls for changes.", outcome=Outcome
        )
        self.tm_follower_hinted = self._gauge(
            "tm_follower_hinted", "1 if every worker hears of changes by hints, and polls seldom.", "livemin"
        )
        self.tm_follower_hint_missed_total = self._counter(
            "tm_follower_hint_missed_total", "Changes found by a poll that no hint had announced."
        )
        self.tm_history_fork_total = self._counter(
            "tm_history_fork_total", "Times that the database went on with another history."
        )
        self.tm_revision_gap_total = self._counter("tm_revision_gap_total", "Times that a revision missed.")
        self.tm_bad_row_total = self._counter("tm_bad_row_total", "Rows that break the rules of their table.")
        self._build_outbox()
        self._build_watching()

    def _build_outbox(self) -> None:
        self.tm_outbox_lag_events = self._gauge(
            "tm_outbox_lag_events", "Changes that wait to be published.", "livemax"
        )
        self.tm_outbox_lag_seconds = self._gauge(
            "tm_outbox_lag_seconds", "Age of the oldest change that waits to be published.", "livemax"
        )
        self.tm_events_set_aside = self._gauge(
            "tm_events_set_aside",
            "Events that Kafka refused for good and that wait to be replayed.",
            "livemax",
        )
        self.tm_retellings_total = self._counter(
            "tm_retellings_total", "Times that all routes were told to Kafka again.", reason=RetellingReason
        )
        self.tm_relay_is_leader = self._gauge(
            "tm_relay_is_leader", "Workers of this server that hold the relay's lease.", "livesum"
        )

    def _build_watching(self) -> None:
        self.tm_watchers = self._gauge(
            "tm_watchers", "Streams and long polls that wait for changes.", "livesum"
        )
        self.tm_watch_changes_sent_total = self._counter(
            "tm_watch_changes_sent_total", "Changes sent to streams, counted for each stream."
        )
        self.tm_watch_streams_ended_total = self._counter(
            "tm_watch_streams_ended_total", "Streams that ended.", reason=StreamEnd
        )

    def resolved_in_lane(self, status: int, seconds: float) -> None:
        """Count a resolve that was answered below the middleware: as a resolve and as an HTTP request."""
        self._counts.resolved_in_lane(status, seconds)

    def written(self, is_success: bool, seconds: float, *, is_replay: bool = False) -> None:
        """Count a change that was asked for and answered. *is_replay*: it had been made before."""
        self.write_requests_total.inc()
        if is_replay:
            self.tm_write_replays_total.inc()
        (self.write_success_total if is_success else self.write_failure_total).inc()
        self.write_latency_seconds.observe(seconds)

    def observe_request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count an HTTP request. *endpoint* is a route's template or UNMATCHED, never a path."""
        method = method if method in METHODS else OTHER_METHOD
        requests, durations = self._bound.get((method, endpoint, status)) or self._bind(
            method, endpoint, status
        )
        requests.inc()
        durations.observe(seconds)

    def update_uptime(self) -> None:
        """Set `application_uptime_seconds`. A scrape does it too, so that it is never old there."""
        self.application_uptime_seconds.set(self._monotonic() - self._started)

    def render(self) -> bytes:
        """Return all metrics of all workers as Prometheus text, in the order of their names. Milliseconds of
        plain Python: call it on a thread, not on the event loop."""
        self.update_uptime()
        return generate_latest(_Exposition(self._families()))

    def _families(self) -> list[Metric]:
        if self._directory is None:
            families: Iterable[Metric] = self._registry.collect()
            counts = self._counts.values()
        else:
            files = [str(path) for path in sorted(self._directory.glob("*.db"))]
            # Any: the library leaves this untyped; it gives Metric objects.
            merged: Any = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
            families = merged
            counts = resolve_counts.read_all(self._directory.glob("*.cells"))
        extra = resolve_counts.as_samples(counts)
        return sorted((_added(family, extra) for family in families), key=lambda family: family.name)

    def _bind(self, method: str, endpoint: str, status: int) -> tuple[Counter, Histogram]:
        self._use_own_values()
        requests = self.api_requests_total.labels(method, endpoint, str(status))
        bound = requests, self.api_request_duration_seconds.labels(method, endpoint)
        self._bound[method, endpoint, status] = bound
        return bound

    def _use_own_values(self) -> None:
        """Let the series that are made next be ours: prometheus_client keeps the choice in a global."""
        values.ValueClass = self._value_class

    def _counter(self, name: str, meaning: str, **label: Iterable[str]) -> Counter:
        """Return a new counter. Its one *label*, if any, has all its values from the start, so that a rate
        sees the first event."""
        counter = self._labelled_counter(name, meaning, tuple(label))
        for value in next(iter(label.values()), ()):
            counter.labels(value)
        return counter

    def _labelled_counter(self, name: str, meaning: str, labels: Sequence[str]) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, mode: _Mode) -> Gauge:
        return Gauge(name, meaning, registry=self._registry, multiprocess_mode=mode)

    def _states(self, name: str, meaning: str, mode: _Mode, **label: Iterable[str]) -> Gauge:
        """Return a new gauge with one *label*, which has all its values from the start."""
        gauge = Gauge(name, meaning, tuple(label), registry=self._registry, multiprocess_mode=mode)
        for value in next(iter(label.values()), ()):
            gauge.labels(value)
        return gauge

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, registry=self._registry, buckets=buckets)


class _Exposition(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _added(family: Metric, extra: dict[resolve_counts.SampleKey, float]) -> Metric:
    family.samples = [
        sample._replace(
            value=sample.value + extra.get((sample.name, tuple(sorted(sample.labels.items()))), 0)
        )
        for sample in family.samples
    ]
    return family
