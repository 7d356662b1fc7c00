"""The lanes and the documented routes write the same lines of the access log."""

from __future__ import annotations

from structlog.testing import capture_logs

from tests.api.twins import the_twins

TARGET = b"/api/v1/routes/resolve?tenant=team-a&service=payments&env=prod&version=%b"
A_REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\nX-Correlation-ID: one\r\n\r\n"


def test_a_resolve_has_the_same_line_on_either_way() -> None:
    with the_twins(access_log=1.0) as twins, capture_logs() as lines:
        for version in (b"v2", b"v2", b"nobody"):  # the second head came before
            twins.answers(A_REQUEST % (TARGET % version))
    facts = [{**line, "seconds": 0} for line in lines if line["event"] == "request_answered"]
    # The documented way has the id from the context.
    fast, documented = facts[::2], [{**line, "correlation_id": "one"} for line in facts[1::2]]
    assert fast == documented
    assert [(line["status"], line["log_level"]) for line in fast] == [
        (200, "info"),
        (200, "info"),
        (404, "info"),
    ]


def test_what_is_not_drawn_has_no_line_in_the_lane() -> None:
    with the_twins(access_log=1e-12) as twins, capture_logs() as lines:
        answer, _ = twins.answers(A_REQUEST % (TARGET % b"v2"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert [line["log_level"] for line in lines if line["event"] == "request_answered"] == ["debug"]
