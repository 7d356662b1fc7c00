"""A trace goes on from a request through its change into the event that a consumer reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.events.topic import read_topic
from tests.node import Node, a_key, a_route, path_of
from tests.servers import KafkaServer
from tests.traces.collector import Collector, a_collector
from traffic_manager.events.envelope import Event
from traffic_manager.events.sendings import Sendings
from traffic_manager.events.waves import Outgoing
from traffic_manager.monitoring.spans import Parent
from traffic_manager.routing.model import Action, Trace

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PUT = "PUT /api/v1/routes/{tenant}/{service}/{env}/{version}"


def an_event(revision: int, trace: Trace | None) -> Outgoing:
    """Return an event that is to be sent."""
    return Outgoing(revision, Action.CREATED, Event(b"a/b/c/d", b"{}", ()), trace)


def test_an_event_that_is_sent_again_was_on_its_way_since_the_first_time() -> None:
    told: list[tuple[Parent, int, int]] = []
    times = iter([10, 40])
    sendings = Sendings(lambda *facts: told.append(facts), lambda: next(times))
    trace = Trace("parent")
    sendings.begin(an_event(1, trace))
    sendings.begin(an_event(2, None))
    sendings.begin(an_event(1, trace))
    sendings.end(an_event(2, None))
    sendings.end(an_event(1, trace))
    assert told == [(trace, 10, 40)]


def test_what_is_given_up_is_not_told_of() -> None:
    told: list[Parent] = []
    sendings = Sendings(lambda parent, *_: told.append(parent))
    sendings.begin(an_event(1, Trace("parent")))
    sendings.forget()
    sendings.end(an_event(1, Trace("parent")))
    assert told == []


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector."""
    with a_collector() as started:
        yield started


@pytest.mark.servers
def test_trace_of_a_request_reaches_the_consumer_of_its_event(
    tmp_path: Path, postgres_settings: dict[str, str], kafka: KafkaServer, collector: Collector
) -> None:
    topic = "traced"
    settings = {**postgres_settings, **kafka.env(), **collector.settings, "KAFKA_ROUTE_EVENTS_TOPIC": topic}
    traced = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=1"}
    with Node(tmp_path, {**settings, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}) as node:
        with node.start("--migrate").client() as client:
            for service, headers in (("a", traced), ("b", {})):
                path, body = path_of(a_key(service=service)), {"url": a_route()["url"]}
                client.put(path, json=body, headers=headers).raise_for_status()
        records = read_topic(kafka.bootstrap_servers, lambda found: len(found) == 2, topic, timeout_s=30)
        [request] = collector.wait_for(PUT)
        [write], [send] = collector.wait_for("store.write"), collector.wait_for(f"send {topic}")
        assert node.stop() == 0
    of_traced, of_other = sorted(records, key=lambda record: record.revision)
    assert of_traced.headers["traceparent"] == f"00-{TRACE_ID}-{request.span_id}-01".encode()
    assert of_traced.headers["tracestate"] == b"vendor=1"
    assert not {"traceparent", "tracestate"} & of_other.headers.keys()
    parts = [(span.trace_id, span.parent_id, span.kind) for span in (write, send)]
    assert parts == [(TRACE_ID, request.span_id, "CLIENT"), (TRACE_ID, request.span_id, "PRODUCER")]
    assert send.facts == {"messaging.system": "kafka", "messaging.destination.name": topic}
    assert collector.named(PUT) == [request]
