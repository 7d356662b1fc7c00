"""Whether this worker should get traffic, from the last look at what it depends on.

`probe` asks the dependencies, on a background thread; `ready` only reads what it found, so that asking for
readiness never waits. Every worker probes for itself. A dependency that breaks later does not make a worker
unready: all nodes share it, and failing together would take every node out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import structlog

from traffic_manager.errors import SchemaMismatch, TrafficManagerError

DATABASE = "database"

log = structlog.get_logger(__name__)


class Phase(StrEnum):
    """Where in its life the worker is."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class CheckStatus(StrEnum):
    """What is known of a dependency."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # broken or slow, and we go on without it
    UNHEALTHY = "unhealthy"  # broken, and we cannot serve
    DISABLED = "disabled"  # not configured


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. *pool* has the numbers of the connection pool, if there is one."""

    status: CheckStatus
    message: str
    pool: Mapping[str, int] | None = None

    # Any: these are the values of a JSON object.
    def as_json(self) -> dict[str, Any]:
        """Return the result as `/health/ready` shows it."""
        facts: dict[str, Any] = {"status": self.status.value, "message": self.message}
        return facts if self.pool is None else {**facts, "pool": dict(self.pool)}


# Looks at one dependency, within a deadline of its own. Broken: return UNHEALTHY or raise a
# TrafficManagerError. The database's check raises SchemaMismatch if this program must not use the tables, and
# answers DEGRADED only if it did reach the database.
Check = Callable[[], CheckResult]

_GOOD = (CheckStatus.HEALTHY, CheckStatus.DISABLED)
_NOT_PROBED = CheckResult(CheckStatus.UNHEALTHY, "not checked yet")


def not_configured() -> CheckResult:
    """Be the check of a dependency that is not configured."""
    return CheckResult(CheckStatus.DISABLED, "not configured")


class Health:
    """The state of this worker and of what it depends on: *checks* by name, DATABASE among them. A parent's table
    is as good as having reached the database: *was_database_reached*."""

    def __init__(self, checks: Mapping[str, Check], *, was_database_reached: bool = False) -> None:
        self._checks = dict(checks)
        self._results = dict.fromkeys(self._checks, _NOT_PROBED)
        self._was_database_reached = was_database_reached
        self._is_schema_wrong = False
        self._buggy: set[str] = set()
        self.phase = Phase.STARTING

    def started(self) -> None:
        """Say that the worker can answer, which with a `probe` before makes it ready."""
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

    def draining(self) -> None:
        """Say that the worker stops: not ready from now on, for good."""
        self.phase = Phase.DRAINING

    def probe(self) -> None:
        """Run every check. Blocks as long as they do: for one thread at a time, never the event loop."""
        for name, check in self._checks.items():
            result = self._judged(name, self._look(name, check))
            before = self._results[name]
            self._results[name] = result
            is_first = before is _NOT_PROBED
            if result.status is not before.status and not (is_first and result.status in _GOOD):
                _log_change(name, before, result)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether to send traffic here, and the body of `/health/ready`. Never waits."""
        is_ready = self.phase is Phase.READY and self._was_database_reached and not self._is_schema_wrong
        status = self.phase.value if self.phase is not Phase.READY or is_ready else "not_ready"
        checks = {name: result.as_json() for name, result in self._results.items()}
        return is_ready, {"status": status, "checks": checks}

    def _look(self, name: str, check: Check) -> CheckResult:
        try:
            return check()
        except SchemaMismatch as error:
            self._is_schema_wrong = True
            return CheckResult(CheckStatus.UNHEALTHY, str(error))
        except TrafficManagerError as error:
            return CheckResult(CheckStatus.UNHEALTHY, str(error))
        except Exception as error:  # a bug in the check; its message may hold secrets
            self._log_bug_once(name)
            return CheckResult(CheckStatus.UNHEALTHY, f"the check failed: {type(error).__name__}")

    def _judged(self, name: str, result: CheckResult) -> CheckResult:
        """Return *result* with the status that it has for us: what we can do without is only degraded."""
        is_needed = False
        if name == DATABASE:
            if result.status in (CheckStatus.HEALTHY, CheckStatus.DEGRADED):
                self._was_database_reached, self._is_schema_wrong = True, False
            is_needed = self._is_schema_wrong or not self._was_database_reached
        if result.status is CheckStatus.UNHEALTHY and not is_needed:
            return replace(result, status=CheckStatus.DEGRADED)
        return result

    def _log_bug_once(self, name: str) -> None:
        if name not in self._buggy:
            self._buggy.add(name)
            log.exception("health_check_failed", check=name)


def _log_change(name: str, before: CheckResult, result: CheckResult) -> None:
    say = log.info if result.status in _GOOD else log.warning
    say("dependency_changed", check=name, before=before.status, now=result.status, reason=result.message)
