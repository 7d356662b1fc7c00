"""Measures what nobody reports: every few seconds a thread asks each source to set its gauges.

`main` gives the sources: the pool's statistics, the outbox's lag, the health checks, and so on. A source has
deadlines of its own, because all of them share the one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from traffic_manager.errors import TrafficManagerError
from traffic_manager.monitoring.metrics import Metrics

Source = Callable[[], None]

log = structlog.get_logger(__name__)


class SystemMetrics:
    """Calls every source of *sources* each *interval_s*, and keeps the uptime of *metrics*."""

    def __init__(self, metrics: Metrics, sources: Mapping[str, Source], interval_s: float = 5.0) -> None:
        self._sources = {"uptime": metrics.update_uptime, **sources}
        self._interval_s = interval_s
        self._failing: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begin, with a first round at once. Call after the fork."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread and wait for it, at most *timeout_s* if a source hangs."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("system_metrics_hang", waited_s=timeout_s)

    def measure(self) -> None:
        """Call every source once, here and now."""
        for name, source in self._sources.items():
            try:
                source()
            except Exception as error:  # a broken source must not stop the others
                self._failed(name, error)
            else:
                self._worked(name)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.measure()
            self._stopping.wait(self._interval_s)

    def _failed(self, name: str, error: Exception) -> None:
        if name not in self._failing:
            self._failing.add(name)
            is_bug = not isinstance(error, TrafficManagerError)
            log.warning("metrics_source_failed", source=name, reason=str(error), exc_info=is_bug)

    def _worked(self, name: str) -> None:
        if name in self._failing:
            self._failing.discard(name)
            log.info("metrics_source_recovered", source=name)
