"""What the server's answers mean: documents become the types of `model`, failures become problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx2

from traffic_manager.client.errors import FieldError, Problem
from traffic_manager.client.model import (
    ApiKey,
    BatchResult,
    Change,
    ChangePage,
    GivenGrant,
    Grant,
    HistoryPage,
    Identity,
    Json,
    KeyPage,
    Limit,
    LimitPage,
    OperationResult,
    Position,
    ResolveResult,
    Route,
    RoutePage,
    read,
    read_all,
)

# A proxy before the server says these without a problem document.
_PROXY_STATUSES = (429, 502, 503, 504)


def json_of(answer: httpx2.Response) -> Any:  # Any: JSON values
    """Return the body as JSON values, None if there is none or it is not JSON."""
    try:
        return json.loads(answer.content) if answer.content else None
    except ValueError:
        return None


def route_page(document: Any) -> RoutePage:  # Any: JSON values
    """Return a page of routes. Raises ValueError, as all of these do, if it is something else."""
    page = read(RoutePage, document)
    return replace(page, routes=read_all(Route, page.routes))


def history_page(document: Any) -> HistoryPage:  # Any: JSON values
    """Return a page of a route's changes."""
    page = read(HistoryPage, document)
    return replace(page, changes=read_all(Change, page.changes))


def change_page(document: Any) -> ChangePage:  # Any: JSON values
    """Return a page of changes."""
    page = read(ChangePage, document)
    return ChangePage(
        read_all(Change, page.changes), Position.parse(str(page.head)), Position.parse(str(page.next_after))
    )


def api_key(document: Any) -> ApiKey:  # Any: JSON values
    """Return a key, with its text if the answer has it."""
    key = read(ApiKey, document)
    return replace(key, grants=read_all(Grant, key.grants))


def key_page(document: Any) -> KeyPage:  # Any: JSON values
    """Return a page of keys."""
    page = read(KeyPage, document)
    return replace(page, keys=tuple(api_key(key) for key in page.keys))


def limit(document: Any) -> Limit:  # Any: JSON values
    """Return what is set for somebody."""
    return read(Limit, document)


def limit_page(document: Any) -> LimitPage:  # Any: JSON values
    """Return a page of limits."""
    page = read(LimitPage, document)
    return replace(page, limits=read_all(Limit, page.limits))


def identity(document: Any) -> Identity:  # Any: JSON values
    """Return who the caller is."""
    found = read(Identity, document)
    return replace(found, grants=read_all(GivenGrant, found.grants))


def resolve_results(document: Any) -> Sequence[ResolveResult]:  # Any: JSON values
    """Return what became of each key."""
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return read_all(ResolveResult, document.get("results"))


def batch_result(document: Any) -> BatchResult:  # Any: JSON values
    """Return what each operation of a batch did."""
    return BatchResult(read_all(OperationResult, read(BatchResult, document).results))


def problem_of(answer: httpx2.Response) -> Problem | None:
    """Return what went wrong, None if the answer does not come from Traffic Manager or a proxy before it."""
    document = json_of(answer)
    if isinstance(document, dict) and "problem+json" in answer.headers.get("Content-Type", ""):
        return _problem(answer, document)
    if answer.status_code not in _PROXY_STATUSES:
        return None
    return Problem(
        answer.status_code,
        title=answer.reason_phrase,
        retry_after_s=_retry_after_s(answer),
        may_be_done=answer.status_code != 429,
    )


def _problem(answer: httpx2.Response, document: Json) -> Problem:
    current, index = document.get("current"), document.get("index")
    return Problem(
        status=answer.status_code,
        type=str(document.get("type", "about:blank")),
        title=str(document.get("title") or answer.reason_phrase),
        detail=str(document.get("detail") or ""),
        correlation_id=document.get("correlation_id"),
        errors=_field_errors(document.get("errors")),
        current=current if isinstance(current, dict) else None,
        index=index if isinstance(index, int) else None,
        head=document.get("head"),
        key_id=document.get("key_id"),
        retry_after_s=_retry_after_s(answer),
        may_be_done=answer.status_code == 500 or document.get("outcome") == "unknown",
    )


def _field_errors(errors: Any) -> tuple[FieldError, ...]:  # Any: JSON values
    found = [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
    return tuple(FieldError(*(str(e.get(name, "")) for name in ("field", "code", "detail"))) for e in found)


def _retry_after_s(answer: httpx2.Response) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None
