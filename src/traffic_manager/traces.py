"""Opens what makes the spans of a process, if the settings ask for traces; for workers and the relay."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from traffic_manager.config.settings import TracesSettings
from traffic_manager.errors import StartRefused
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.spans import Facts, Kind, Record

if TYPE_CHECKING:
    from traffic_manager.monitoring.tracing import Tracing


def open_tracing(settings: TracesSettings, metrics: Metrics) -> Tracing | None:
    """Return what makes this process's spans, None if it shall make none. After any fork: it has a thread. Close
    it."""
    if not settings.is_on:
        return None
    # Here, because the library is an extra that only users of traces install.
    from traffic_manager.monitoring.tracing import Sampling, Tracing, pairs

    return Tracing(
        settings.traces_url,
        pairs(settings.headers),
        {**pairs(settings.resource_attributes or ""), "service.name": settings.service_name},
        Sampling(settings.ratio, heeds_parent=settings.heeds_parent),
        metrics,
    )


def recorder_of(tracing: Tracing | None, name: str, kind: Kind, facts: Facts) -> Record | None:
    """Return what tells of something that is over as a span; None if there are no traces."""
    return None if tracing is None else tracing.recorder(name, kind, facts)


def check_library(settings: TracesSettings) -> None:
    """Raise StartRefused if there shall be traces and what makes them is not installed."""
    if settings.is_on and find_spec("opentelemetry") is None:
        raise StartRefused("OTEL_TRACES_EXPORTER: otlp needs `pip install 'traffic-manager[otel]'`")
