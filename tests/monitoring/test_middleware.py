"""What the middleware makes of requests that a FastAPI application answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx2
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from structlog.testing import capture_logs

from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.middleware import (
    Message,
    Receive,
    RequestMonitoring,
    Scope,
    Send,
    correlation_id,
    new_correlation_id,
)

from .exposition import values

OURS = r"[0-9a-f]{24}"


async def a_problem(scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
    """Stand for `api.problems`."""
    await PlainTextResponse(f"problem {request_id}", 500)(scope, receive, send)


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def healthy() -> dict[str, str]:
    return {"status": "healthy"}


def an_application(metrics: Metrics, *, access_log: bool = False) -> FastAPI:
    app = FastAPI()
    app.include_router(_routes(), prefix="/api/v1")
    app.add_api_route("/health", healthy)
    app.mount("/console", Starlette(routes=[Route("/page/{name}", plain)]))
    app.mount("/static", PlainTextResponse("a file"))
    app.add_middleware(
        RequestMonitoring, metrics=metrics, on_error=a_problem, access_log=AccessLog(float(access_log))
    )
    return app


def _routes() -> APIRouter:
    routes = APIRouter(prefix="/routes")

    @routes.get("/{tenant}/{service}")
    async def read(tenant: str, service: str, request: Request) -> dict[str, str]:
        structlog.get_logger().info("in_the_handler")
        return {"correlation_id": request.state.correlation_id}

    @routes.get("/threaded")
    def threaded() -> None:
        structlog.get_logger().info("in_a_thread")

    @routes.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    @routes.get("/torn")
    async def torn() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("torn")

        return StreamingResponse(body())

    @routes.get("/own")
    async def own() -> PlainTextResponse:
        return PlainTextResponse("x", headers={"X-Correlation-ID": "somebody-elses"})

    outer = APIRouter()
    outer.include_router(routes)
    outer.routes.append(Mount("/deep", routes=[Route("/{x}", plain)]))
    return outer


Headers = Mapping[str, str] | Sequence[tuple[str, str]]


def ask(app: FastAPI, path: str, method: str = "GET", headers: Headers = ()) -> httpx2.Response:
    async def one() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=dict(headers) if headers else None)

    return asyncio.run(one())


def requests_of(metrics: Metrics) -> dict[str, float]:
    """Return how often each series of requests was counted, those with 0 left out."""
    shown = values(metrics.render())
    return {
        name.removeprefix("api_requests_total"): value
        for name, value in shown.items()
        if name.startswith("api_requests_total") and value
    }


# ---- correlation ids


def test_a_well_formed_id_is_taken_over() -> None:
    answer = ask(an_application(Metrics()), "/health", headers={"X-Correlation-ID": "aB9._-" * 10})
    assert answer.headers["X-Correlation-ID"] == "aB9._-" * 10


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "naïve", "a,b", "a\x7fb"])
def test_an_ill_formed_id_is_replaced(given: str) -> None:
    assert correlation_id([given.encode()]) != given
    assert len(correlation_id([given.encode()])) == 24


def test_a_line_break_behind_an_id_makes_it_ill_formed() -> None:
    assert correlation_id([b"abc\n"]) != "abc\n"


def test_two_ids_are_none() -> None:
    assert correlation_id([b"one", b"two"]) not in {"one", "two"}


def test_a_request_without_id_gets_a_new_one_each_time() -> None:
    assert len({correlation_id([]) for _ in range(1000)}) == 1000
    assert len(new_correlation_id()) == 24


def test_the_id_is_in_the_answer_the_request_and_the_log() -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = ask(an_application(Metrics()), "/api/v1/routes/a/b", headers={"X-Correlation-ID": "abc"})
    assert answer.headers.get_list("X-Correlation-ID") == ["abc"]
    assert answer.json() == {"correlation_id": "abc"}
    assert {line["event"]: line["correlation_id"] for line in lines} == {
        "in_the_handler": "abc",
        "request_answered": "abc",
    }


def test_the_id_reaches_handlers_on_threads() -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        ask(an_application(Metrics()), "/api/v1/routes/threaded", headers={"X-Correlation-ID": "abc"})
    assert [line["correlation_id"] for line in lines if line["event"] == "in_a_thread"] == ["abc"]


def test_the_id_does_not_leak_into_what_comes_after() -> None:
    ask(an_application(Metrics()), "/health")
    assert structlog.contextvars.get_contextvars() == {}


def test_an_answer_has_one_id_even_if_the_application_sets_another() -> None:
    answer = ask(an_application(Metrics()), "/api/v1/routes/own", headers={"X-Correlation-ID": "abc"})
    assert answer.headers.get_list("X-Correlation-ID") == ["abc"]


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/routes/boom"])
def test_failures_carry_an_id_too(path: str) -> None:
    with capture_logs():
        answer = ask(an_application(Metrics()), path)
    assert len(answer.headers["X-Correlation-ID"]) == 24


# ---- counting


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/health", "/health"),
        ("/api/v1/routes/a/b", "/api/v1/routes/{tenant}/{service}"),
        ("/api/v1/deep/a", "/api/v1/deep/{path}"),
        ("/docs", "/docs"),
        ("/openapi.json", "/openapi.json"),
        ("/console/page/a", "/page/{name}"),
        ("/static/a/b/c", "/static/{path}"),
    ],
)
def test_a_request_is_counted_by_its_routes_template(path: str, template: str) -> None:
    metrics = Metrics()
    ask(an_application(metrics), path)
    expected = f'{{endpoint="{template}",method="GET",status_code="200"}}'
    assert requests_of(metrics) == {expected: 1}


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere", "/console/nowhere", "/%00\u2028"])
def test_a_path_of_no_route_is_unmatched(path: str) -> None:
    metrics = Metrics()
    ask(an_application(metrics), path)
    assert requests_of(metrics) == {'{endpoint="unmatched",method="GET",status_code="404"}': 1}


def test_a_method_that_a_route_does_not_have_is_counted_there() -> None:
    metrics = Metrics()
    ask(an_application(metrics), "/api/v1/routes/a/b", method="BREW")
    expected = '{endpoint="/api/v1/routes/{tenant}/{service}",method="other",status_code="405"}'
    assert requests_of(metrics) == {expected: 1}


def test_a_request_is_timed_by_the_given_clock() -> None:
    metrics, ticks = Metrics(), iter([10.0, 10.25])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("x")(scope, receive, send)

    monitoring = RequestMonitoring(
        app, metrics, lambda: next(ticks), on_error=a_problem, access_log=AccessLog(0.0)
    )
    asyncio.run(monitoring(a_scope(), nothing_more, ignored))
    shown = values(metrics.render())
    assert shown['api_request_duration_seconds_sum{endpoint="unmatched",method="GET"}'] == 0.25


def test_a_request_shows_that_its_worker_runs_when_it_begins_and_when_it_ends() -> None:
    """Thousands that come at once are taken one after the other before any timer is: no reason to be killed."""
    said: list[str] = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        said.append("answered")

    monitored = RequestMonitoring(
        app, Metrics(), on_error=a_problem, access_log=AccessLog(0.0), beat=lambda: said.append("runs")
    )
    asyncio.run(monitored(a_scope(), nothing_more, ignored))
    assert said == ["runs", "answered", "runs"]


def test_a_request_that_is_cancelled_counts_as_left_by_the_client() -> None:
    metrics = Metrics()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    monitoring = RequestMonitoring(app, metrics, on_error=a_problem, access_log=AccessLog(0.0))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(monitoring(a_scope(), nothing_more, ignored))
    assert requests_of(metrics) == {'{endpoint="unmatched",method="GET",status_code="499"}': 1}


def test_what_is_not_http_passes_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    metrics = Metrics()
    monitoring = RequestMonitoring(app, metrics, on_error=a_problem, access_log=AccessLog(1.0))
    asyncio.run(monitoring({"type": "lifespan"}, nothing_more, ignored))
    assert seen == [{"type": "lifespan"}]
    assert requests_of(metrics) == {}


# ---- errors and the access log


def test_an_unhandled_error_is_answered_and_logged_once_with_its_stack() -> None:
    metrics = Metrics()
    with capture_logs() as lines:
        answer = ask(an_application(metrics), "/api/v1/routes/boom", headers={"X-Correlation-ID": "abc"})
    assert (answer.status_code, answer.text) == (500, "problem abc")
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["exc_info"]) == ("unhandled_error", True)
    assert requests_of(metrics) == {'{endpoint="/api/v1/routes/boom",method="GET",status_code="500"}': 1}


def test_an_error_after_the_answer_began_is_logged_and_never_answered_a_second_time() -> None:
    metrics = Metrics()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    with capture_logs() as lines:
        asyncio.run(an_application(metrics)(a_scope("/api/v1/routes/torn"), nothing_more, send))
    assert [message.get("body", b"") for message in sent] == [b"", b"half"]
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["unhandled_error"]


@pytest.mark.parametrize(("access_log", "level"), [(True, "info"), (False, "debug")])
def test_the_access_log_has_one_line_a_request_at_the_chosen_level(access_log: bool, level: str) -> None:
    with capture_logs() as lines:
        ask(an_application(Metrics(), access_log=access_log), "/health?secret=1")
    [line] = lines
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request_answered",
        "log_level": level,
        "method": "GET",
        "path": "/health",
        "endpoint": "/health",
        "status": 200,
    }


def a_scope(path: str = "/") -> dict[str, Any]:  # Any: the values of an ASGI scope
    return {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}


async def nothing_more() -> Message:
    await asyncio.sleep(3600)
    return {"type": "http.disconnect"}


async def ignored(message: Message) -> None:
    """Be a client that does not look."""
