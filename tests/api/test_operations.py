"""Health, metrics and the documentation page."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.access.issue import PEPPER, a_key_for, bearer
from tests.api.calls import ROUTES, URL, a_fresh_key
from tests.node import Node, resolve, wait_until

SPECIFIED_METRICS = [
    "resolve_requests_total",
    "resolve_cache_hit_total",
    "resolve_cache_miss_total",
    "resolve_negative_cache_hit_total",
    "resolve_latency_seconds",
    "write_requests_total",
    "write_success_total",
    "write_failure_total",
    "write_latency_seconds",
    "kafka_events_published_total",
    "kafka_events_failed_total",
    "db_queries_total",
    "db_connection_errors_total",
    "api_requests_total",
    "api_request_duration_seconds",
    "db_pool_size",
    "db_pool_available",
    "db_pool_in_use",
    "cache_connected",
    "kafka_producer_ready",
    "application_uptime_seconds",
    "tm_applied_revision",
    "tm_head_revision",
    "tm_staleness_seconds",
    "tm_outbox_lag_events",
    "tm_outbox_lag_seconds",
    "tm_mirror_routes",
]


class TestHealth:
    def test_health_names_the_service(self, api: httpx2.Client) -> None:
        answer = api.get("/health")
        expected = {"status": "healthy", "service": "traffic-manager"}
        assert (answer.status_code, answer.json()) == (200, expected)

    def test_live_answers(self, api: httpx2.Client) -> None:
        assert api.get("/health/live").status_code == 200

    def test_ready_tells_of_each_dependency(self, api: httpx2.Client, stack: Node) -> None:
        cache = "healthy" if "REDIS_HOST" in stack.environment else "disabled"
        mirror = "disabled" if stack.environment.get("MIRROR_MAX_ROUTES") == "0" else "healthy"
        expected = {"database": "healthy", "cache": cache, "kafka": "disabled", "mirror": mirror}

        def statuses() -> dict[str, str]:
            checks = api.get("/health/ready").json()["checks"]
            return {name: check["status"] for name, check in checks.items()}

        wait_until(lambda: statuses() == expected, what=f"{expected}")
        document = api.get("/health/ready").json()
        assert document["status"] == "ready"
        assert document["checks"]["database"]["message"]
        assert set(document["checks"]["database"]["pool"]) >= {"size", "available", "in_use"}


def _sum(text: str, metric: str) -> float:
    """Return the sum of all samples of *metric*."""
    samples = re.findall(rf"^{metric}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, samples))


class TestMetrics:
    def test_every_specified_metric_is_there_in_the_text_format(self, api: httpx2.Client) -> None:
        answer = api.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain")
        names = set(re.findall(r"^# TYPE (\S+) ", answer.text, re.MULTILINE))
        assert sorted(set(SPECIFIED_METRICS) - names) == []

    def test_any_worker_tells_the_sum_of_all(self, stack: Node, api: httpx2.Client) -> None:
        """Each request has a connection of its own, which any of the workers may take."""
        keys = [a_fresh_key() for _ in range(8)]
        before = api.get("/metrics").text
        for key in keys:
            made = api.post(ROUTES, json={**key, "url": URL}, headers={"Connection": "close"})
            token = made.headers["TM-Revision"]
            assert resolve(api, key, connection="close", tm_min_revision=token).status_code == 200
            assert resolve(api, key, connection="close").status_code in (200, 404)
        for _ in range(4):
            now = api.get("/metrics", headers={"Connection": "close"}).text
            for metric, expected in (("write_requests_total", 8), ("resolve_requests_total", 16)):
                assert _sum(now, metric) - _sum(before, metric) == expected

    def test_refused_write_is_a_failure_and_a_no_op_a_success(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        before = api.get("/metrics").text
        for url in (URL, URL, f"{URL}/other"):
            api.post(ROUTES, json={**key, "url": url})
        now = api.get("/metrics").text
        found = [
            _sum(now, f"write_{kind}_total") - _sum(before, f"write_{kind}_total")
            for kind in ("success", "failure")
        ]
        assert found == [2, 1]

    def test_paths_and_names_are_no_labels(self, api: httpx2.Client) -> None:
        key = a_fresh_key(service="label-canary")
        api.get(f"{ROUTES}/{'/'.join(key.values())}")
        api.get("/label-canary")
        text = api.get("/metrics").text
        assert "label-canary" not in text
        assert 'endpoint="/api/v1/routes/{tenant}/{service}/{env}/{version}"' in text

    def test_no_name_path_or_method_makes_a_series_of_its_own(self, sqlite_stack: Node) -> None:
        with sqlite_stack.client() as client:
            _ask_with_what_nobody_else_has(client)  # each call and status once
            client.get("/metrics")
            before = client.get("/metrics").text
            for _ in range(20):
                _ask_with_what_nobody_else_has(client)
            after = client.get("/metrics").text
        # A busy machine may add an outcome or two, such as 503; names would have added hundreds.
        assert len(_series(after) - _series(before)) < 50
        assert len(after) < 1 << 20


def _ask_with_what_nobody_else_has(client: httpx2.Client) -> None:
    """Ask for calls with names, paths, methods and values that never came before."""
    word = f"w{secrets.token_hex(8)}"
    key = a_fresh_key(service=word)
    for method in ("GET", "PUT", "DELETE", "PATCH", word.upper(), "PROPFIND"):
        client.request(
            method, f"{ROUTES}/{'/'.join(key.values())}", json={"url": f"https://{word}.example.com"}
        )
        client.request(method, f"/{word}/{word}")
    for path in (f"{ROUTES}/resolve", ROUTES, "/api/v1/changes"):
        client.get(path, params={**key, word: word})
        client.get(path, params=key, headers={word: word, "User-Agent": word, "X-Correlation-ID": word})


def _series(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


class TestDocumentationPage:
    def test_page_and_all_it_needs_come_from_this_server(self, sqlite_stack: Node) -> None:
        with sqlite_stack.client() as client:
            page = client.get("/docs")
            wanted = re.findall(r'(?:src|href)="([^"]+)"', page.text) + re.findall(
                r"url: '([^']+)'", page.text
            )
            answers = {path: client.get(path) for path in wanted}
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert len(answers) == 4
        assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(wanted, 200)
        assert not re.search(r"https?:|//\w", page.text.replace("// ", ""))

    def test_other_files_are_not_served(self, sqlite_stack: Node) -> None:
        with sqlite_stack.client() as client:
            for name in ("swagger-ui.LICENSE", "../app.py", "..%2fapp.py", "", "x"):
                assert client.get(f"/docs/assets/{name}").status_code in (400, 404)

    @pytest.fixture
    def production_node(self, tmp_path: Path) -> Iterator[Node]:
        with Node(tmp_path, {"ENVIRONMENT": "production", "AUTH_PEPPER": PEPPER}) as node:
            yield node.start()

    def test_production_serves_no_page_but_the_document(self, production_node: Node) -> None:
        with production_node.client() as client:
            paths = ("/docs", "/docs/assets/swagger-ui.css", "/redoc", "/openapi.json")
            client.headers.update(bearer(a_key_for(production_node, "resolver:team-a/prod")))
            wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
            assert [client.get(path).status_code for path in paths] == [404, 404, 404, 200]
