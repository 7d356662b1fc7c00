"""Our configuration, rules and dashboards in a real Prometheus that scrapes two real nodes under load, in good times
and while their database is away."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.kit.observed import Observed, Servers, observed
from tests.kit.questions import of_panels, of_rules
from tests.kit.traffic import Traffic
from tests.node import wait_until
from tests.servers import KafkaServer, PostgresServer, RedisServer

pytestmark = [pytest.mark.kit, pytest.mark.servers, pytest.mark.timeout(400)]
# No node has answered 500, so there is no such series.
BUG, FAILURE = 'status_code="500"', 'status_code="503"'
# What a database that is away sets off. What it does to budgets and to the pool takes longer than this test.
EXPECTED = {"TrafficManagerDatabaseAway", "TrafficManagerAnswersStale"}


@pytest.fixture(scope="module")
def stand(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: PostgresServer,
    redis_server: RedisServer,
    kafka: KafkaServer,
) -> Iterator[Observed]:
    """Two nodes that have gone through an outage of their database, and go on under load."""
    servers = Servers(postgres, redis_server, kafka)
    with (
        observed(servers, tmp_path_factory.mktemp("observed")) as stand,
        Traffic(stand.nodes, stand.keys).going(),
    ):
        wait_until(lambda: _is_answered(stand, "sum(rate(resolve_requests_total[15s])) > 10"), 60, "the load")
        yield stand


def _is_answered(stand: Observed, question: str) -> bool:
    return any(math.isfinite(value) for _, value in stand.prometheus.now(question))


def _firing(stand: Observed) -> set[str]:
    return {labels["alertname"] for labels, _ in stand.prometheus.now('ALERTS{alertstate="firing"}')}


def test_every_node_is_scraped_with_a_key_over_tls(stand: Observed) -> None:
    targets = wait_until(stand.prometheus.targets, what="targets")
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2
    assert all(target["scrapeUrl"].startswith("https://") for target in targets)


def test_no_alert_fires_while_all_is_well(stand: Observed) -> None:
    assert _firing(stand) == set()


def test_database_that_is_away_sets_off_its_alerts_and_they_end_with_it(stand: Observed) -> None:
    stand.servers.postgres.stop()
    try:
        wait_until(lambda: _firing(stand) >= EXPECTED, 90, "the alerts")
    finally:
        stand.servers.postgres.start()
    wait_until(lambda: not _firing(stand) & EXPECTED, 60, "the end of the alerts")


def test_no_rule_meets_an_error(stand: Observed) -> None:
    states = wait_until(
        lambda: [
            rule for rule in stand.prometheus.rules() if rule["health"] != "unknown"
        ]  # unknown: not evaluated yet
    )
    assert [(rule["name"], rule["lastError"]) for rule in states if rule["health"] != "ok"] == []


def test_every_question_of_a_rule_is_answered(stand: Observed) -> None:
    questions = [(name, question.replace(BUG, FAILURE)) for name, question in of_rules()]
    unanswered = [pair for pair in questions if not _is_answered_soon(stand, pair[1])]
    assert unanswered == []


def test_every_question_of_a_panel_is_answered(stand: Observed) -> None:
    unanswered = [place for place, question in of_panels().items() if not _is_answered_soon(stand, question)]
    assert unanswered == []


def _is_answered_soon(stand: Observed, question: str) -> bool:
    """Within 20 s: some series begin with the first request of their kind."""
    try:
        return wait_until(lambda: _is_answered(stand, question), 20.0)
    except AssertionError:
        return False
