"""The ASGI application: monitoring, then FastAPI with the documented calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from traffic_manager import __version__
from traffic_manager.access.permissions import Principal
from traffic_manager.api import changes, keys, limits, operations, problems, resolve_batch, routes, stream
from traffic_manager.api.access import HEALTH, METRICS, Door, free_calls, principal_of
from traffic_manager.api.charges import Charges
from traffic_manager.api.context import Parts
from traffic_manager.api.documents import describe_parameters
from traffic_manager.api.head import HeadAsGet
from traffic_manager.api.paths import PathsAsTheyCame
from traffic_manager.api.refusals import Refusals
from traffic_manager.api.requests import shown
from traffic_manager.api.schemas import ProblemAnswer
from traffic_manager.api.shedding import Shedding
from traffic_manager.api.sign_ins import FailedSignIns
from traffic_manager.errors import (
    BatchFailed,
    FieldProblem,
    Forbidden,
    InvalidInput,
    RequestRefused,
    TrafficManagerError,
    Unauthenticated,
)
from traffic_manager.monitoring.middleware import RequestMonitoring

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

DESCRIPTION = """Which URL serves a version of a service of a tenant in an environment, right now?

Routes are created, changed and resolved here; every change has a revision in one order.
Every GET answers HEAD, too. Errors are RFC 9457 problem documents."""

# What pydantic calls a broken rule, and what we call it. Everything else is an invalid value.
_CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown-field",
    "string_type": "wrong-type",
    "bool_type": "wrong-type",
    "int_type": "wrong-type",
    "list_type": "wrong-type",
    "dict_type": "wrong-type",
    "model_type": "wrong-type",
    "model_attributes_type": "wrong-type",
    "too_long": "too-many",
    "too_short": "too-few",
}


ROUTERS: tuple[APIRouter, ...] = (
    resolve_batch.router,
    routes.router,
    changes.router,
    stream.router,
    keys.router,
    limits.router,
    operations.router,
    operations.docs_router,
)
_CREDENTIALS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
# A body of 4 MiB can break a million rules; whoever repairs it reads only the first.
_MAX_FIELD_PROBLEMS = 32


def build_app(parts: Parts, lifespan: Lifespan) -> FastAPI:
    """Return the application over *parts*; *lifespan* opens and closes them."""
    api = FastAPI(
        title="Traffic Manager",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False},
    )
    api.state.parts = parts
    api.state.refusals = Refusals(parts.metrics)
    api.state.charges = Charges(parts.limiter)
    for router in ROUTERS:
        if router is not operations.docs_router or parts.settings.serves_docs:
            api.include_router(router)
    api.add_exception_handler(TrafficManagerError, _on_expected)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.openapi = lambda: describe(api)  # type: ignore[method-assign] # FastAPI's documented way
    _add_middleware(api, parts)
    return api


def _add_middleware(api: FastAPI, parts: Parts) -> None:
    """Put before the calls what a request passes on its way to them: last what it comes to first."""
    api.add_middleware(stream.StreamFront, parts=parts)
    api.add_middleware(PathsAsTheyCame, refuse=_refuse)
    api.add_middleware(
        Door,
        gate=parts.gate,
        free=free_calls(parts.gate, metrics_are_free=parts.settings.auth.metrics == "open"),
        refuse=_refuse,
        failed=partial(_sign_in_failed, api, FailedSignIns(parts.settings.limit.failed_sign_ins)),
        check=partial(_check_charges, api),
    )
    api.add_middleware(HeadAsGet)
    api.add_middleware(Shedding, refuse=_refuse)
    api.add_middleware(
        RequestMonitoring,
        metrics=parts.metrics,
        on_error=_on_bug,
        access_log=parts.access_log,
        tracing=parts.tracing,
        untraced=(*HEALTH, METRICS),
        beat=parts.beat,
    )


def _sign_in_failed(
    api: FastAPI, failures: FailedSignIns, scope: Any, error: TrafficManagerError
) -> None:  # Any: an ASGI scope
    address, method, path, correlation_id = _whence(api.state.parts, scope)
    if isinstance(error, Unauthenticated):
        api.state.refusals.sign_in_failed(address, method, path, correlation_id)
    failures.count(address)


def _check_charges(api: FastAPI, scope: Any, caller: Principal) -> None:  # Any: an ASGI scope
    api.state.charges.check(caller, scope["method"], scope["path"])


def describe(api: FastAPI) -> dict[str, Any]:  # Any: a JSON document
    """Return the OpenAPI document, made once."""
    if api.openapi_schema is None:
        document = get_openapi(
            title=api.title, version=api.version, description=api.description, routes=api.routes
        )
        schemas = document["components"]["schemas"]
        schemas[ProblemAnswer.__name__] = ProblemAnswer.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        schemas |= schemas[ProblemAnswer.__name__].pop("$defs", {})
        _drop_foreign_errors(document)
        describe_parameters(document)
        document["components"]["securitySchemes"] = _CREDENTIALS
        document["security"] = [{name: []} for name in _CREDENTIALS]
        for path in HEALTH:
            document["paths"][path]["get"]["security"] = []
        api.openapi_schema = document
    return api.openapi_schema


def _drop_foreign_errors(document: dict[str, Any]) -> None:
    """Remove FastAPI's own 422: every refusal of ours is a problem document."""
    for path in document["paths"].values():
        for call in path.values():
            foreign = call["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(foreign):
                del call["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


async def _on_expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, TrafficManagerError)  # noqa: S101 registered for it alone
    return _problem(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 registered for it alone
    found = error.errors()[:_MAX_FIELD_PROBLEMS]
    invalid = InvalidInput(*(_field_problem(item) for item in found))
    place = found[0]["loc"]
    if len(place) > 2 and place[:2] == ("body", "operations") and isinstance(place[2], int):
        return _problem(request, BatchFailed(place[2], invalid))
    return _problem(request, invalid)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 registered for it alone
    code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "refused")
    response = _problem(request, RequestRefused(error.status_code, code, str(error.detail)))
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = _allowed(request.url.path)
    return response


def _allowed(path: str) -> str:
    """Return the methods that are taken at *path*; the framework tells only those of the first route there."""
    matching = (
        route
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path_regex.match(path)
    )
    methods = {method for route in matching for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _refuse(
    scope: Any, error: TrafficManagerError
) -> tuple[int, problems.Headers, bytes]:  # Any: an ASGI scope
    return problems.render(error, problems.instance_of(scope["path"]), str(scope["state"]["correlation_id"]))


def _whence(parts: Parts, scope: Any) -> tuple[str, str, str, str]:  # Any: an ASGI scope
    """Return from where a request comes, its method, its path, and its correlation id."""
    address = parts.proxies.address_of(scope["client"], scope["headers"])
    path = problems.instance_of(scope["path"])
    return address, scope["method"], path, str(scope["state"]["correlation_id"])


def _problem(request: Request, error: TrafficManagerError) -> Response:
    cause = error.cause if isinstance(error, BatchFailed) else error
    if isinstance(cause, Forbidden):
        whence = _whence(request.app.state.parts, request.scope)
        request.app.state.refusals.denied(principal_of(request).name, *whence)
    charges: Charges = request.app.state.charges
    charges.refused(principal_of(request), request.method, request.url.path, error)
    status, headers, body = _refuse(request.scope, error)
    response = Response(body, status)
    response.raw_headers[:0] = headers
    if status in (408, 413, 415):
        response.headers["Connection"] = "close"  # the rest of the body is not worth reading
    return response


def _field_problem(item: dict[str, Any]) -> FieldProblem:
    where, *path = item["loc"]
    parts = [shown(str(part), "body") for part in path]
    field = parts[-1] if parts else str(where)
    if where == "body":
        pointer = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)
        return FieldProblem(field, _CODES.get(item["type"], "invalid-value"), item["msg"], pointer)
    code = "missing-parameter" if item["type"] == "missing" else "invalid-parameter"
    return FieldProblem(field, code, item["msg"])


async def _on_bug(scope: Any, receive: Any, send: Any, correlation_id: str) -> None:
    status, headers, body = problems.render_internal(problems.instance_of(scope["path"]), correlation_id)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
