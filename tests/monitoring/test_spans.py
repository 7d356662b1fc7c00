"""What is done for a traced request are spans of it; without a trace there are none."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import structlog

from traffic_manager.monitoring.spans import Kind, Parent, current, current_context, step


class FakeSpan:
    """Keeps what it is told, with its children, in *told*."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self._told = told

    @property
    def context(self) -> Parent:
        return self.name, None

    @property
    def ids(self) -> Mapping[str, str]:
        return {"trace_id": "t", "span_id": self.name}

    def child(self, name: str, kind: Kind) -> FakeSpan:
        self._told.append(f"{self.name} begins {name} as {kind.name}")
        return FakeSpan(name, self._told)

    def failed(self, error: BaseException) -> None:
        self._told.append(f"{self.name} fails by {type(error).__name__}")

    def answered(self, method: str, endpoint: str, path: str, status: int, correlation_id: str) -> None:
        raise AssertionError("a request, not a step")

    def end(self) -> None:
        self._told.append(f"{self.name} ends")


@step("read")
def read() -> str | None:
    """Return the span that it runs in."""
    context = current_context()
    return context and context[0]


def test_a_step_of_a_traced_request_is_a_span_within_it() -> None:
    told: list[str] = []
    with current(FakeSpan("request", told)):
        assert read() == "read"
        assert current_context() == ("request", None)
    assert told == ["request begins read as CLIENT", "read ends"]
    assert current_context() is None


def test_a_step_that_fails_says_so_and_ends() -> None:
    told: list[str] = []
    with current(FakeSpan("request", told)), pytest.raises(ZeroDivisionError), step("write"):
        raise ZeroDivisionError
    assert told == ["request begins write as CLIENT", "write fails by ZeroDivisionError", "write ends"]


def test_without_a_trace_a_step_is_nothing() -> None:
    with current(None):
        assert read() is None


def test_log_lines_within_a_span_name_it() -> None:
    with current(FakeSpan("request", [])):
        assert structlog.contextvars.get_contextvars() == {"trace_id": "t", "span_id": "request"}
    assert structlog.contextvars.get_contextvars() == {}
