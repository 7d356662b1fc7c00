"""Calls of those who run the server: health, metrics, and the documentation page."""

from __future__ import annotations

import asyncio
import os
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Operation
from traffic_manager.api import schemas
from traffic_manager.api.access import SCRAPER, GivenCaller
from traffic_manager.api.context import GivenParts, json_answer
from traffic_manager.api.documents import documented
from traffic_manager.errors import RequestRefused, SourceUnavailable

_NOT_KEPT = {"Cache-Control": "no-store"}


async def _not_kept(response: Response) -> None:
    response.headers.update(_NOT_KEPT)


router = APIRouter(tags=["operations"], dependencies=[Depends(_not_kept)])
# The page works without the internet: its script and style come from us.
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# Swagger's page sets styles in attributes, and its icons are data.
_POLICY = (
    "default-src 'none'; script-src 'self' '%s'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "healthy", "service": "traffic-manager"}


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Say that the process answers; restart it if it does not. Says nothing of what it depends on."""
    return {"status": "alive"}


@router.get("/health/ready", responses={503: {"description": "Send no traffic here"}})
async def ready(parts: GivenParts, response: Response) -> dict[str, object]:
    """Say whether to send traffic here, and how each dependency is. A broken one does not make it 503: every
    node shares it, and answers from memory."""
    is_ready, document = parts.health.ready()
    response.status_code = 200 if is_ready else 503
    return document


@router.get("/api/v1/mirror", **documented(200, schemas.MirrorAnswer, 400))
async def mirror(parts: GivenParts, caller: GivenCaller) -> Response:
    """Say where the memory of the worker stands that answers, for `traffic-manager verify`: it asks on for the
    routes over the same connection, which stays with the same worker."""
    caller.check(Operation.READ_METRICS, None, None)
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    held = parts.mirror
    if held.head is None:
        raise SourceUnavailable("this worker has not loaded the routes yet")
    document = {
        "worker": os.getpid(),
        "workers": parts.settings.api.workers,
        "epoch": held.head.epoch,
        "revision": held.applied,
        "chain": held.chain.hex(),
        "is_complete": held.is_complete,
        "routes": len(held),
    }
    return json_answer(document, held.head.position)


_EXPOSITION = {
    "description": "Prometheus text format",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


_METRICS = documented(200, None, 503)["responses"] | {200: _EXPOSITION}


@router.get("/metrics", response_class=Response, responses=_METRICS)
async def metrics(parts: GivenParts, caller: GivenCaller) -> Response:
    """Return the metrics of all workers as Prometheus reads them."""
    caller.check(Operation.READ_METRICS, None, None)
    if caller is not SCRAPER:  # whom anybody could use up
        parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    body = await asyncio.to_thread(parts.metrics.render)
    return Response(body, media_type=parts.metrics.content_type, headers=_NOT_KEPT)


@router.get("/openapi.json", include_in_schema=False)
async def document(request: Request, parts: GivenParts, caller: GivenCaller) -> Response:
    """Return the description of the API."""
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    body = orjson.dumps(request.app.openapi())
    return Response(body, media_type="application/json", headers=_NOT_KEPT)


docs_router = APIRouter(include_in_schema=False)


@docs_router.get("/docs")
async def docs(parts: GivenParts, caller: GivenCaller) -> Response:
    """Return the page that shows the API. It runs its own script alone, asks this server alone, and stands in no
    frame."""
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Traffic Manager API",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon-32x32.png",
    )
    policy = _POLICY % _hash_of_script(bytes(page.body).decode())
    page.headers.update(_NOT_KEPT | {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})
    return page


def _hash_of_script(page: str) -> str:
    """Return what a policy calls the one script that stands in *page* itself."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


@docs_router.get("/docs/assets/{name}")
async def asset(name: str, parts: GivenParts, caller: GivenCaller) -> Response:
    """Return a file of the documentation page."""
    parts.limiter.charge(Kind.LISTS, caller.counted_as, None)
    if name not in _ASSETS:
        raise RequestRefused(404, "not-found", "there is nothing here")
    return Response(_read(name), media_type=_ASSETS[name], headers={"Cache-Control": "max-age=86400"})


@cache
def _read(name: str) -> bytes:
    return (files("traffic_manager.api") / "static" / name).read_bytes()
