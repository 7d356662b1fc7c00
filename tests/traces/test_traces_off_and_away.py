"""Without traces nothing is sent; and whatever a collector does, no request and no stop waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from tests.api.twins import the_twins
from tests.node import Node, a_key, resolve
from tests.traces.collector import a_collector
from traffic_manager import traces
from traffic_manager.api.lane import Lane
from traffic_manager.api.telling_lane import lane_of
from traffic_manager.config.settings import TracesSettings
from traffic_manager.errors import StartRefused


def given(**values: str | float) -> TracesSettings:
    """Return settings, the others as they are by default."""
    return TracesSettings.model_validate(values)


def test_what_makes_spans_is_not_even_imported_without_traces() -> None:
    """FastAPI imports the library's interface, where it is installed, and no more."""
    program = "import sys, traffic_manager.main; print([m for m in sys.modules if 'opentelemetry.sdk' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_lane_is_the_plain_one_without_traces() -> None:
    with the_twins() as twins:
        assert type(lane_of(twins.lane.parts)) is Lane


def test_server_that_shall_trace_without_the_library_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "find_spec", lambda _name: None)
    traces.check_library(given(traces_exporter="none"))
    with pytest.raises(StartRefused, match=r"OTEL_TRACES_EXPORTER: .*traffic-manager\[otel\]"):
        traces.check_library(given(traces_exporter="otlp"))


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_stop(tmp_path: Path) -> None:
    with a_collector() as collector, Node(tmp_path, collector.settings) as node:
        collector.hangs = Event()
        node.start()
        with node.client(timeout_s=5.0) as client:
            for _ in range(20):
                assert resolve(client, a_key()).status_code == 404
        assert node.stop(timeout_s=20.0) == 0


def test_what_waits_is_sent_before_the_server_ends(tmp_path: Path) -> None:
    with a_collector() as collector:
        settings = {**collector.settings, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        with Node(tmp_path, settings) as node:
            with node.start().client() as client:
                resolve(client, a_key())
            assert collector.spans == []
            assert node.stop() == 0
        assert [span.name for span in collector.spans] == ["GET /api/v1/routes/resolve"]


def test_samplers_of_the_standard_are_known() -> None:
    samplers = {
        name: (settings.ratio, settings.heeds_parent)
        for name in ("always_on", "always_off", "traceidratio")
        for name in (name, f"parentbased_{name}")
        if (settings := given(traces_sampler=name, traces_sampler_arg=0.25))
    }
    assert samplers == {
        "always_on": (1.0, False),
        "parentbased_always_on": (1.0, True),
        "always_off": (0.0, False),
        "parentbased_always_off": (0.0, True),
        "traceidratio": (0.25, False),
        "parentbased_traceidratio": (0.25, True),
    }
