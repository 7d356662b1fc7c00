"""When a worker is ready, and what it says about the things it depends on."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from traffic_manager.errors import SchemaMismatch, SourceUnavailable
from traffic_manager.monitoring.health import Check, CheckResult, CheckStatus, Health, not_configured

POOL = {"size": 2, "available": 1, "in_use": 1}


def reached() -> CheckResult:
    return CheckResult(CheckStatus.HEALTHY, "reached", POOL)


def away() -> CheckResult:
    raise SourceUnavailable


def of_another_version() -> CheckResult:
    raise SchemaMismatch("the tables are of version 7; run `traffic-manager migrate`")


class Dependency:
    """A check whose answer can be changed."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self) -> CheckResult:
        return self.check()


def a_health(database: Check = reached, cache: Check = not_configured) -> Health:
    return Health({"database": database, "cache": cache, "kafka": not_configured})


def a_ready_worker(database: Check = reached, cache: Check = not_configured) -> Health:
    health = a_health(database, cache)
    health.probe()
    health.started()
    return health


def test_a_ready_worker_answers_with_the_documented_body() -> None:
    assert a_ready_worker().ready() == (
        True,
        {
            "status": "ready",
            "checks": {
                "database": {"status": "healthy", "message": "reached", "pool": POOL},
                "cache": {"status": "disabled", "message": "not configured"},
                "kafka": {"status": "disabled", "message": "not configured"},
            },
        },
    )


def test_a_worker_that_has_not_started_is_not_ready() -> None:
    health = a_health()
    health.probe()
    is_ready, body = health.ready()
    assert (is_ready, body["status"]) == (False, "starting")


def test_a_draining_worker_is_not_ready_and_never_becomes_it_again() -> None:
    health = a_ready_worker()
    health.draining()
    health.started()
    is_ready, body = health.ready()
    assert (is_ready, body["status"]) == (False, "draining")


def test_a_worker_that_has_not_looked_yet_is_not_ready() -> None:
    health = a_health()
    health.started()
    is_ready, body = health.ready()
    assert (is_ready, body["status"]) == (False, "not_ready")
    assert body["checks"]["database"] == {"status": "unhealthy", "message": "not checked yet"}


def test_a_worker_that_never_reached_the_database_is_not_ready() -> None:
    is_ready, body = a_ready_worker(database=away).ready()
    assert (is_ready, body["status"]) == (False, "not_ready")
    assert body["checks"]["database"]["status"] == "unhealthy"


def test_a_database_that_breaks_later_is_degraded_and_the_worker_stays_ready() -> None:
    database = Dependency(reached)
    health = a_ready_worker(database)
    database.check = away
    health.probe()
    is_ready, body = health.ready()
    assert (is_ready, body["status"]) == (True, "ready")
    assert body["checks"]["database"] == {
        "status": "degraded",
        "message": "the database cannot be reached",
    }


def test_a_wrong_schema_makes_a_worker_unready_at_any_time() -> None:
    database = Dependency(reached)
    health = a_ready_worker(database)
    database.check = of_another_version
    health.probe()
    is_ready, body = health.ready()
    assert (is_ready, body["status"]) == (False, "not_ready")
    assert "migrate" in body["checks"]["database"]["message"]


def test_a_wrong_schema_is_not_forgotten_while_the_database_is_away() -> None:
    database = Dependency(reached)
    health = a_ready_worker(database)
    for database.check in (of_another_version, away):
        health.probe()
    assert health.ready()[0] is False


def test_a_worker_becomes_ready_when_the_schema_is_right_again() -> None:
    database = Dependency(of_another_version)
    health = a_ready_worker(database)
    database.check = reached
    health.probe()
    assert health.ready()[0] is True


@pytest.mark.parametrize("cache", [away, lambda: CheckResult(CheckStatus.UNHEALTHY, "timeout")])
def test_a_broken_cache_is_degraded_and_does_not_fail_readiness(cache: Check) -> None:
    is_ready, body = a_ready_worker(cache=cache).ready()
    assert is_ready is True
    assert body["checks"]["cache"]["status"] == "degraded"


def test_a_bug_in_a_check_is_logged_once_and_its_message_is_not_shown() -> None:
    def bug() -> CheckResult:
        raise ValueError("password=hunter2")

    with capture_logs() as lines:
        health = a_ready_worker(cache=bug)
        health.probe()
    assert health.ready()[1]["checks"]["cache"] == {
        "status": "degraded",
        "message": "the check failed: ValueError",
    }
    assert [line["event"] for line in lines].count("health_check_failed") == 1


def test_a_change_is_logged_once() -> None:
    database = Dependency(reached)
    health = a_ready_worker(database)
    database.check = away
    with capture_logs() as lines:
        health.probe()
        health.probe()
    assert [(line["event"], line["now"], line["log_level"]) for line in lines] == [
        ("dependency_changed", "degraded", "warning")
    ]


def test_asking_for_readiness_does_not_wait_for_a_check_that_hangs() -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang() -> CheckResult:
        hanging.set()
        release.wait(30)
        return reached()

    cache = Dependency(not_configured)
    health = a_ready_worker(cache=cache)
    cache.check = hang
    probing = threading.Thread(target=health.probe)
    probing.start()
    assert hanging.wait(5)
    assert health.ready()[0] is True
    release.set()
    probing.join()


def test_changing_the_answer_changes_nothing_here() -> None:
    health = a_ready_worker()
    health.ready()[1]["checks"]["database"]["pool"]["size"] = 99
    assert health.ready()[1]["checks"]["database"]["pool"] == POOL
