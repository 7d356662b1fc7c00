"""What a real server tells a collector, over OTLP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from unittest.mock import ANY

import httpx2
import pytest

from tests.node import Node, a_key, a_route, path_of, resolve, wait_until
from tests.traces.collector import Collector, Seen, a_collector
from traffic_manager.access.credentials import Credential

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RESOLVE = "GET /api/v1/routes/resolve"
PUT = "PUT /api/v1/routes/{tenant}/{service}/{env}/{version}"
# Around the lanes: it asks for what they do not do.
AROUND = {"Cache-Control": "max-age=60"}


def a_parent(flags: str = "01", trace_id: str = TRACE_ID) -> dict[str, str]:
    """Return the headers of a request that is part of a trace."""
    return {"traceparent": f"00-{trace_id}-{SPAN_ID}-{flags}", "tracestate": "vendor=1"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector."""
    with a_collector() as started:
        yield started


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Node]:
    """A server that tells it of every request."""
    settings = {
        **collector.settings,
        "API_ACCESS_LOG": "true",
        "OTEL_SERVICE_NAME": "routes",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=te%20st",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=canary",
    }
    with Node(tmp_path_factory.mktemp("traced"), settings) as started:
        yield started.start()


@pytest.fixture
def client(node: Node, collector: Collector) -> Iterator[httpx2.Client]:
    """A client of it; the spans so far are forgotten."""
    collector.spans.clear()
    with node.client() as opened:
        opened.put(path_of(a_key()), json={"url": a_route()["url"]}, headers={"X-Correlation-ID": "set-up"})
        collector.wait_for(PUT)
        collector.spans.clear()
        yield opened


def comparable(span: Seen) -> tuple[object, ...]:
    """Return what two answers to the same request have in common."""
    return span.name, span.kind, span.facts, span.trace_id, span.parent_id, span.is_failed, span.state


@pytest.mark.parametrize("version", ["v2", "none"])
def test_lane_and_documented_route_tell_the_same_of_a_resolve(
    client: httpx2.Client, collector: Collector, version: str
) -> None:
    for more in ({}, AROUND):
        headers = {**a_parent(), "X-Correlation-ID": "one", **more}
        client.get("/api/v1/routes/resolve", params=a_key(version=version), headers=headers)
    fast, documented = collector.wait_for(RESOLVE, 2)
    assert comparable(fast) == comparable(documented)
    assert (fast.trace_id, fast.parent_id, fast.state) == (TRACE_ID, SPAN_ID, "vendor=1")
    assert fast.kind == "SERVER"
    assert fast.facts == {
        "http.request.method": "GET",
        "http.route": "/api/v1/routes/resolve",
        "url.path": "/api/v1/routes/resolve",
        "http.response.status_code": 200 if version == "v2" else 404,
        "traffic_manager.correlation_id": "one",
    }
    assert 0 < fast.ended_ns - fast.began_ns < 10**9


def test_both_ways_of_a_change_tell_the_same_with_the_write_as_a_part(
    client: httpx2.Client, collector: Collector
) -> None:
    spans = []
    for more in ({}, {"If-None-Match": '"x"'}):
        collector.spans.clear()
        headers = {**a_parent(), "X-Correlation-ID": "two", **more}
        url = f"https://example.com/{len(more)}"
        client.put(path_of(a_key()), json={"url": url}, headers=headers).raise_for_status()
        (span,), (write,) = collector.wait_for(PUT), collector.wait_for("store.write")
        assert (write.trace_id, write.parent_id, write.kind) == (span.trace_id, span.span_id, "CLIENT")
        assert span.began_ns <= write.began_ns < write.ended_ns <= span.ended_ns
        spans.append(comparable(span))
    assert spans[0] == spans[1]


def test_a_read_of_the_database_is_a_part_of_its_request(client: httpx2.Client, collector: Collector) -> None:
    client.get("/api/v1/routes", headers=a_parent())
    (request,), (read,) = collector.wait_for("GET /api/v1/routes"), collector.wait_for("store.page")
    assert (read.trace_id, read.parent_id) == (TRACE_ID, request.span_id)


def test_an_api_key_in_a_path_is_told_to_nobody(
    client: httpx2.Client, node: Node, collector: Collector
) -> None:
    key = str(Credential.new())
    client.post(f"/api/v1/keys/{key}/revoke")
    (span,) = collector.wait_for("POST /api/v1/keys/{key_id}/revoke")
    assert span.facts["url.path"] == f"/api/v1/keys/{key[:17]}***/revoke"
    assert key[17:60] not in wait_until(lambda: log if f"{key[:17]}***" in (log := node.log()) else "")


def test_spans_say_what_they_are_of_and_go_with_the_headers_that_were_set(
    client: httpx2.Client, collector: Collector
) -> None:
    resolve(client, a_key())
    (span,) = collector.wait_for(RESOLVE)
    assert (span.of["service.name"], span.of["deployment.environment.name"]) == ("routes", "te st")
    assert {"service.version", "service.instance.id"} <= span.of.keys()
    assert collector.headers[-1]["api-key"] == "canary"


def test_a_request_that_is_not_sampled_elsewhere_is_not_here(
    client: httpx2.Client, collector: Collector
) -> None:
    for more in ({}, AROUND):
        resolve(client, a_key(), traceparent=a_parent("00")["traceparent"], **more)
    client.put(path_of(a_key()), json={"url": "https://example.com/unsampled"}, headers=a_parent("00"))
    resolve(client, a_key(), traceparent=a_parent(trace_id="1" * 32)["traceparent"])
    collector.wait_for(RESOLVE)
    assert {span.trace_id for span in collector.spans} == {"1" * 32}


@pytest.mark.parametrize("broken", ["", "x", f"00-{'0' * 32}-{SPAN_ID}-01", f"ff-{TRACE_ID}-{SPAN_ID}-01"])
def test_a_broken_traceparent_begins_a_trace_and_breaks_nothing(
    client: httpx2.Client, collector: Collector, broken: str
) -> None:
    for more in ({}, AROUND):
        answer = client.get("/api/v1/routes/resolve", params=a_key(), headers={"traceparent": broken, **more})
        assert answer.status_code == 200
    spans = collector.wait_for(RESOLVE, 2)
    assert [span.parent_id for span in spans] == ["", ""]
    assert len({span.trace_id for span in spans} - {TRACE_ID}) == 2


def test_heads_that_are_known_by_heart_begin_a_trace_each(
    client: httpx2.Client, collector: Collector
) -> None:
    for _ in range(4):
        resolve(client, a_key())
    resolve(client, a_key(), traceparent=a_parent()["traceparent"])
    resolve(client, a_key())
    spans = collector.wait_for(RESOLVE, 6)
    assert [span.parent_id for span in spans] == ["", "", "", "", SPAN_ID, ""]
    assert len({span.trace_id for span in spans}) == 6


def test_lines_of_a_traced_request_name_its_span(
    client: httpx2.Client, node: Node, collector: Collector
) -> None:
    client.get("/api/v1/routes", headers=a_parent())
    for more in ({}, AROUND):
        client.get("/api/v1/routes/resolve", params=a_key(), headers={**a_parent(), **more})
    client.put(path_of(a_key()), json={"url": "https://example.com/told"}, headers=a_parent())
    collector.wait_for(RESOLVE, 2)
    spans = {span.span_id for span in collector.wait_for(PUT) + collector.named(RESOLVE)}

    def told() -> set[str]:
        lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
        return {line["span_id"] for line in lines if line.get("trace_id") == TRACE_ID}

    wait_until(lambda: spans <= told(), what="lines of the three")


def test_probes_and_scrapes_are_not_traced(client: httpx2.Client, collector: Collector) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        client.get(path, headers=a_parent())
    resolve(client, a_key())
    collector.wait_for(RESOLVE)
    assert {span.name for span in collector.spans} == {RESOLVE}


def _shows(client: httpx2.Client, sample: str) -> bool:
    return sample in client.get("/metrics").text


def test_a_collector_that_fails_is_told_of_once_and_harms_nobody(
    client: httpx2.Client, node: Node, collector: Collector
) -> None:
    collector.status = 400
    for number in (1, 2, 3):
        assert resolve(client, a_key()).status_code == 200
        failed = f'tm_spans_total{{outcome="failed"}} {number}.0'
        wait_until(partial(_shows, client, failed), what=failed)
    collector.status = 200
    resolve(client, a_key())
    collector.wait_for(RESOLVE)
    wait_until(lambda: "traces_sent_again" in node.log(), what="the end of it in the log")
    lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    said = [(line["event"], line.get("reason")) for line in lines if "traces_" in line["event"]]
    assert said == [("traces_not_sent", ANY), ("traces_sent_again", None)]
    assert "400" in said[0][1]
    assert not [line for line in lines if line["logger"].startswith("opentelemetry")]
