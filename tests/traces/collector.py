"""A collector that takes what real ones take, OTLP over HTTP in protobuf, and keeps the spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.node import wait_until


@dataclass(frozen=True)
class Seen:
    """A span as it came over the wire."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    facts: Mapping[str, str | int]
    of: Mapping[str, str | int]  # what it says that it is of
    is_failed: bool
    state: str


@dataclass
class Collector:
    """Where it is, and what came."""

    url: str
    spans: list[Seen] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    status: int = 200
    hangs: Event | None = None  # until it is set, nothing is answered

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a server that tells it at once of everything."""
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def wait_for(self, name: str, count: int = 1) -> list[Seen]:
        """Return the spans called *name*, when there are *count*."""
        return wait_until(
            lambda: found if len(found := self.named(name)) >= count else [], 20.0, f"{count} of {name}"
        )

    def named(self, name: str) -> list[Seen]:
        """Return the spans called *name*, the oldest first."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began_ns)


@contextmanager
def a_collector() -> Iterator[Collector]:
    """Start a collector on a free port; it ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if collector.hangs is not None:
                collector.hangs.wait(30)
            assert self.path == "/v1/traces"
            if collector.status == 200:
                collector.headers.append(dict(self.headers))
                collector.spans += _spans_in(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        if collector.hangs is not None:
            collector.hangs.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _spans_in(request: ExportTraceServiceRequest) -> Iterator[Seen]:
    for of_resource in request.resource_spans:
        about = _facts(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    facts=_facts(span.attributes),
                    of=about,
                    is_failed=span.status.code == Status.STATUS_CODE_ERROR,
                    state=span.trace_state,
                )


def _facts(attributes: Iterator[KeyValue]) -> Mapping[str, str | int]:
    return {
        pair.key: pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
        for pair in attributes
    }
