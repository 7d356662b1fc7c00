"""Traces: spans that OpenTelemetry's library sends to a collector. Imported only where they are switched on.

Our own spans, not the library's instrumentation of ASGI: that cost 69 µs a request even if none was sampled, and does
not know the lanes. Whether a request is sampled is decided here, before any object of the library is made.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Mapping, Sequence
from random import getrandbits
from urllib.parse import unquote

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as LibrarySpan

from traffic_manager import __version__
from traffic_manager.monitoring.label_values import Outcome
from traffic_manager.monitoring.log_lines import without_keys
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.spans import Facts, Kind, Parent, Record, Span, parent_in

_CLOSE_S = 3.0
_KINDS = {kind: SpanKind[kind.name] for kind in Kind}

log = structlog.get_logger(__name__)


class Tracing:
    """The spans of one process, sent to *url* with *headers* on a thread of its own. Make it after any fork, and
    close it. *about*: what the spans say that they are of."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        about: Mapping[str, str],
        sampling: Sampling,
        metrics: Metrics,
    ) -> None:
        self._sampling = sampling
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # of those that are made: the others never are
            resource=Resource.create({**_this_process(), **about}),
            shutdown_on_exit=False,
            id_generator=Ids(sampling.bound),
        )
        exporter = _Told(OTLPSpanExporter(url, headers=headers), metrics)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("traffic_manager", __version__)

    def request(self, headers: Sequence[tuple[bytes, bytes]]) -> Span | None:
        """Begin the span of a request with *headers*; None if it is not sampled."""
        return self.begin(parent_in(headers))

    def begin(self, parent: Parent | None) -> Span | None:
        """Begin the span of a request that is a part of *parent*; None if it is not sampled."""
        if not self._sampling.takes(parent):
            return None
        context = set_span_in_context(NonRecordingSpan(_context_of(parent))) if parent else None
        return _Span(self._tracer, self._tracer.start_span("request", context, SpanKind.SERVER))

    def recorder(self, name: str, kind: Kind, facts: Facts) -> Record:
        """Return what tells of something that is over as a span."""

        def record(parent: Parent, began_ns: int, ended_ns: int) -> None:
            context = set_span_in_context(NonRecordingSpan(_context_of(parent)))
            span = self._tracer.start_span(name, context, _KINDS[kind], facts, start_time=began_ns)
            span.end(ended_ns)

        return record

    def close(self) -> None:
        """Send what waits, if the collector takes it soon. The library would wait half a minute for it."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


class _Span:
    """A span of the library's."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: LibrarySpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def context(self) -> Parent:
        context = self._span.get_span_context()
        state = context.trace_state.to_header() or None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}", state

    @property
    def ids(self) -> Mapping[str, str]:
        context = self._span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def child(self, name: str, kind: Kind) -> Span:
        return _Span(
            self._tracer, self._tracer.start_span(name, set_span_in_context(self._span), _KINDS[kind])
        )

    def failed(self, error: BaseException) -> None:
        # Its type alone: a message may hold what is nobody else's.
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(Status(StatusCode.ERROR))

    def answered(self, method: str, endpoint: str, path: str, status: int, correlation_id: str) -> None:
        self._span.update_name(f"{method} {endpoint}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": endpoint,
                "url.path": without_keys(path.encode()).decode(),
                "http.response.status_code": status,
                "traffic_manager.correlation_id": correlation_id,
            }
        )
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def end(self) -> None:
        self._span.end()


class Sampling:
    """Which requests are traced: *ratio* of those for which no other span decides."""

    def __init__(self, ratio: float, *, heeds_parent: bool) -> None:
        self._heeds_parent = heeds_parent
        self.bound = round(ratio * 2**64)

    def takes(self, parent: Parent | None) -> bool:
        """Return whether a request that is a part of *parent* is traced."""
        if parent is None:
            return getrandbits(64) < self.bound
        traceparent = parent[0]
        if self._heeds_parent:
            return bool(int(traceparent[53:55], 16) & 1)
        # As others decide by the same ratio, so that a trace is sampled everywhere or nowhere.
        return int(traceparent[19:35], 16) < self.bound


class Ids(RandomIdGenerator):
    """Ids of traces that are sampled: such as everybody who samples by the same ratio takes."""

    def __init__(self, bound: int) -> None:
        self._bound = max(bound, 1)

    def generate_trace_id(self) -> int:
        return (getrandbits(64) or 1) << 64 | random.randrange(self._bound)  # noqa: S311 not a secret


class _Told(SpanExporter):
    """Sends with *exporter*; counts, and tells once when the collector goes and once when it is back."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._count = metrics.tm_spans_total
        self._last_words = _LastWords()
        self._is_failing = False
        exporters = logging.getLogger("opentelemetry.exporter")
        exporters.addHandler(self._last_words)
        exporters.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*. Whatever becomes of them, they are not sent again."""
        result = self._exporter.export(spans)
        is_sent = result is SpanExportResult.SUCCESS
        self._count.labels(Outcome.OK if is_sent else Outcome.FAILED).inc(len(spans))
        if is_sent and self._is_failing:
            log.info("traces_sent_again")
        if not is_sent and not self._is_failing:
            log.warning("traces_not_sent", reason=self._last_words.text)
        self._is_failing = not is_sent
        return result

    def shutdown(self) -> None:
        """Give the connection up."""
        self._exporter.shutdown()


class _LastWords(logging.Handler):
    """Keeps the library's last line, in the place of the log: it has one for every try."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def _this_process() -> Mapping[str, str]:
    instance = f"{socket.gethostname()}:{os.getpid()}"
    return {"service.version": __version__, "service.instance.id": instance}


def pairs(text: str) -> dict[str, str]:
    """Return the pairs of *text*, `name=value,...`, in which anything may be percent-encoded."""
    parts = (part.partition("=") for part in text.split(",") if "=" in part)
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in parts}


def _context_of(parent: Parent) -> SpanContext:
    traceparent, state = parent
    _, trace_id, span_id, flags = traceparent.split("-")[:4]
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )
