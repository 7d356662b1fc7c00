"""What one process counts, and under which names."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from traffic_manager.monitoring import metrics as monitoring
from traffic_manager.monitoring.label_values import Outcome
from traffic_manager.monitoring.metric_files import clear
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.resolve_counts import RESOLVE_BUCKETS, RESOLVE_ENDPOINT, ResolveOutcome
from traffic_manager.routing.model import Action

from .exposition import labels, types, values

RESOLVE_200 = 'api_requests_total{endpoint="/api/v1/routes/resolve",method="GET",status_code="200"}'
PUBLISHED_NAMES = set(
    """
resolve_requests_total resolve_cache_hit_total resolve_cache_miss_total resolve_negative_cache_hit_total
resolve_latency_seconds write_requests_total write_success_total write_failure_total write_latency_seconds
kafka_events_published_total kafka_events_failed_total db_queries_total db_connection_errors_total
api_requests_total api_request_duration_seconds db_pool_size db_pool_available db_pool_in_use cache_connected
kafka_producer_ready application_uptime_seconds
""".split()  # noqa: SIM905 a line each would not be read
)


@pytest.fixture(params=["in this process", "in files"])
def metrics(request: pytest.FixtureRequest, tmp_path: Path) -> Metrics:
    if request.param == "in this process":
        return Metrics()
    clear(tmp_path)
    return Metrics(tmp_path, worker=0)


def test_the_names_of_the_specification_are_published_exactly(metrics: Metrics) -> None:
    assert set(types(metrics.render())) >= PUBLISHED_NAMES


def test_all_other_names_are_marked_as_ours(metrics: Metrics) -> None:
    others = set(types(metrics.render())) - PUBLISHED_NAMES
    assert {name for name in others if not name.startswith("tm_")} == set()


def test_every_metric_is_an_attribute_of_its_name(metrics: Metrics) -> None:
    assert [name for name in types(metrics.render()) if not hasattr(metrics, name)] == []


def test_both_ways_of_keeping_values_publish_the_same_series(tmp_path: Path) -> None:
    clear(tmp_path)
    assert set(values(Metrics().render())) == set(values(Metrics(tmp_path).render()))


def test_a_series_exists_before_its_first_event(metrics: Metrics) -> None:
    shown = values(metrics.render())
    assert shown['kafka_events_published_total{action="deactivated"}'] == 0
    assert shown['tm_follower_polls_total{outcome="failed"}'] == 0
    assert shown['tm_cache_rejected_total{reason="schema"}'] == 0
    assert shown[RESOLVE_200] == 0


def test_actions_are_those_of_a_change() -> None:
    assert tuple(monitoring.ACTIONS) == tuple(Action)


def test_each_outcome_of_a_resolve_counts_as_a_request_and_as_itself(metrics: Metrics) -> None:
    for outcome in ResolveOutcome:
        metrics.resolved(outcome, 0.00002)
    shown = values(metrics.render())
    assert shown["resolve_requests_total"] == len(ResolveOutcome)
    assert shown["resolve_cache_hit_total"] == 1
    assert shown["resolve_cache_miss_total"] == 1
    assert shown["resolve_negative_cache_hit_total"] == 1


def test_a_resolve_is_timed_from_ten_microseconds_up(metrics: Metrics) -> None:
    for seconds in (0.00001, 0.000011, 99.0):
        metrics.resolved(ResolveOutcome.HIT, seconds)
    shown = values(metrics.render())
    assert shown['resolve_latency_seconds_bucket{le="1e-05"}'] == 1
    assert shown['resolve_latency_seconds_bucket{le="2.5e-05"}'] == 2
    assert shown['resolve_latency_seconds_bucket{le="30.0"}'] == 2
    assert shown['resolve_latency_seconds_bucket{le="+Inf"}'] == 3
    assert shown["resolve_latency_seconds_count"] == 3
    assert shown["resolve_latency_seconds_sum"] == pytest.approx(99.000021)


def test_a_resolve_in_the_lane_is_an_http_request_too(metrics: Metrics) -> None:
    metrics.observe_request("GET", RESOLVE_ENDPOINT, 200, 0.002)
    metrics.resolved(ResolveOutcome.MISS, 0.002)
    metrics.resolved_in_lane(200, 0.00003)
    shown = values(metrics.render())
    duration = '{endpoint="/api/v1/routes/resolve",method="GET"}'
    assert shown[RESOLVE_200] == 2
    assert shown["resolve_requests_total"] == 2
    assert shown["resolve_latency_seconds_count"] == 2
    assert shown[f"api_request_duration_seconds_count{duration}"] == 2
    assert shown[f"api_request_duration_seconds_sum{duration}"] == pytest.approx(0.00203)


def test_the_buckets_of_requests_are_among_those_of_resolves() -> None:
    assert set(monitoring.REQUEST_BUCKETS) <= set(RESOLVE_BUCKETS)


def test_buckets_never_fall_when_the_lane_is_added(metrics: Metrics) -> None:
    metrics.observe_request("GET", RESOLVE_ENDPOINT, 200, 20.0)
    for seconds in (0.00003, 0.0007, 0.3, 3.0):
        metrics.resolved_in_lane(200, seconds)
    buckets = [value for name, value in values(metrics.render()).items() if "duration_seconds_bucket" in name]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1]) == (1, 5)


@pytest.mark.parametrize(("status", "outcome"), [(200, "hit"), (304, "hit"), (404, "negative")])
def test_the_status_of_a_resolve_in_the_lane_tells_its_outcome(
    metrics: Metrics, status: int, outcome: str
) -> None:
    metrics.resolved_in_lane(status, 0.00003)
    shown = values(metrics.render())
    assert shown[RESOLVE_200.replace("200", str(status))] == 1
    assert shown["resolve_requests_total"] == 1
    assert shown["resolve_cache_hit_total"] == (outcome == "hit")
    assert shown["resolve_negative_cache_hit_total"] == (outcome == "negative")


def test_a_request_is_counted_and_timed_by_its_template(metrics: Metrics) -> None:
    metrics.observe_request("PUT", "/api/v1/routes/{tenant}", 412, 0.003)
    shown = values(metrics.render())
    endpoint = 'endpoint="/api/v1/routes/{tenant}"'
    assert shown[f'api_requests_total{{{endpoint},method="PUT",status_code="412"}}'] == 1
    assert shown[f'api_request_duration_seconds_bucket{{{endpoint},le="0.0025",method="PUT"}}'] == 0
    assert shown[f'api_request_duration_seconds_bucket{{{endpoint},le="0.005",method="PUT"}}'] == 1


def test_invented_methods_share_one_series(metrics: Metrics) -> None:
    for method in ("BREW", "get", "PROPFIND"):
        metrics.observe_request(method, monitoring.UNMATCHED, 405, 0.001)
    shown = values(metrics.render())
    assert shown['api_requests_total{endpoint="unmatched",method="other",status_code="405"}'] == 3


def test_a_write_succeeds_or_fails(metrics: Metrics) -> None:
    for is_success in (True, True, False):
        metrics.written(is_success, 0.004)
    shown = values(metrics.render())
    assert shown["write_requests_total"] == 3
    assert shown["write_success_total"] == 2
    assert shown["write_failure_total"] == 1
    assert shown["write_latency_seconds_count"] == 3


def test_fixed_labels_take_their_enums(metrics: Metrics) -> None:
    metrics.tm_follower_polls_total.labels(Outcome.FAILED).inc()
    assert values(metrics.render())['tm_follower_polls_total{outcome="failed"}'] == 1


def test_labels_are_the_documented_ones(metrics: Metrics) -> None:
    found = labels(metrics.render())
    assert found["api_requests_total"] == {"method", "endpoint", "status_code"}
    assert found["api_request_duration_seconds"] == {"method", "endpoint"}
    assert found["kafka_events_failed_total"] == {"action"}


def test_a_scrape_is_plain_prometheus_text_in_the_order_of_names(metrics: Metrics) -> None:
    # The library sorts by the name without a counter's ending.
    names = [name.removesuffix("_total") for name in types(metrics.render())]
    assert names == sorted(names)
    assert all(family.samples for family in text_string_to_metric_families(metrics.render().decode()))
    assert metrics.content_type == "text/plain; version=0.0.4; charset=utf-8"


def test_uptime_is_that_of_the_moment_of_the_scrape() -> None:
    now = [100.0]
    metrics = Metrics(monotonic=lambda: now[0])
    now[0] = 107.5
    assert values(metrics.render())["application_uptime_seconds"] == 7.5


def test_two_sets_of_metrics_do_not_mix(tmp_path: Path) -> None:
    clear(tmp_path)
    in_files, in_memory = Metrics(tmp_path), Metrics()
    in_files.observe_request("GET", "/late", 200, 0.1)
    in_memory.observe_request("GET", "/late", 200, 0.1)
    late = 'api_requests_total{endpoint="/late",method="GET",status_code="200"}'
    assert values(in_files.render())[late] == 1
    assert values(in_memory.render())[late] == 1
