"""How calls are described in OpenAPI: every answer that they can give, with its shape."""

from __future__ import annotations

from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from traffic_manager.api.problems import INTERNAL, PROBLEMS, JsonObject
from traffic_manager.api.reason import MAX_CHARACTERS
from traffic_manager.api.schemas import (
    NAME_PATTERN,
    TAGS_PATTERN,
    ProblemAnswer,
    ResolveAnswer,
    ResolveBatchAnswer,
    RouteAnswer,
)

_REFUSALS = {
    400: "The request is ill-formed; `errors` names each field",
    413: "The body is too large",
    414: "Path and query are too long",
    415: "The body is not uncompressed `application/json`",
}


def _header(description: str) -> dict[str, Any]:  # Any: a JSON document
    return {"description": description, "schema": {"type": "string"}}


_HEADERS = {
    "TM-Revision": _header("The revision that the answer was true at, or that the write made."),
    "X-Correlation-ID": _header("The id of this request."),
}
_TAG = {"ETag": _header("The route's tag.")}
_FLAGS = {
    "TM-Stale": _header("`?1` if the database has been out of reach for over a second."),
    "Age": _header("For how many seconds it has been so."),
}
_KEY = r"[!#-\[\]-~]{1,255}"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
_POSITION = r"[0-9a-f]{8}\.(0|[1-9][0-9]{0,17})"
# What parameters look like, by name, with an example. They are checked elsewhere, so that every way in gives the same
# errors.
_GRAMMARS = {
    "tenant": (NAME_PATTERN, "team-a"),
    "service": (NAME_PATTERN, "payments"),
    "env": (NAME_PATTERN, "prod"),
    "version": (NAME_PATTERN, "v2"),
    "key_id": ("[0-9A-Za-z]{12}", "3fPq9ZxW1kLm"),
    "tm-min-revision": (_POSITION, "4be1f0a2.42"),
    "after": (rf"{_POSITION}|[0-9]{{1,18}}", "0"),
    "last-event-id": (rf"{_POSITION}|[0-9]{{1,18}}", "0"),
    "page_token": ("[0-9A-Za-z_-]+", "WyI0YmUxZjBhMiIsMF0"),
    "subject": ("tenant|principal", "tenant"),
    "name": (NAME_PATTERN, "team-a"),
    "if-match": (TAGS_PATTERN, '"4be1f0a2.42"'),
    "if-none-match": (TAGS_PATTERN, "*"),
    "Idempotency-Key": (f'"{_KEY}"|{_KEY}', '"0d0e2ab0-57e5-4c37-9a2f-5a1e9a0d5b7c"'),
    "TM-Reason": (
        rf"(?=.*[^ ,])[^\x00-\x1f\x7f-\xa0\xad]{{1,{MAX_CHARACTERS}}}",
        "OPS-42: moved to another host",
    ),
    "since": (_TIME, "2026-11-27T12:00:00Z"),
    "until": (_TIME, "2026-11-27T12:00:00Z"),
}
# As pydantic calls them where a spelling is checked first.
_BOUNDS = {"ge": "minimum", "le": "maximum"}
_LOCATION = {"Location": _header("The path of the new route.")}
_CHALLENGE = {"WWW-Authenticate": _header("`Bearer`.")}
_LIMITS = {
    "RateLimit-Policy": _header("The limit: requests `q` in `w` seconds."),
    "RateLimit": _header("What is left of it, `r`, and in how many seconds there may be more, `t`."),
    "X-RateLimit-Limit": _header("As `q`."),
    "X-RateLimit-Remaining": _header("As `r`."),
    "X-RateLimit-Reset": _header("As `t`."),
}
_RETRY = {"Retry-After": _header("Try again after so many seconds.")}


def describe_parameters(document: JsonObject) -> None:
    """Have the OpenAPI *document* say what the parameters of its calls look like. One that may be left out cannot be
    null for that: nothing in a path, a query or a header is."""
    for calls in document["paths"].values():
        for method, call in calls.items():
            for parameter in call.get("parameters", ()):
                _describe(parameter["schema"], parameter["name"])
                if method == "get" and parameter["name"] == "if-none-match":
                    # A read answers in full where it does not know the tag, whatever it is.
                    del parameter["schema"]["pattern"]


def _describe(schema: JsonObject, name: str) -> None:
    if "anyOf" in schema:
        schema |= next(kind for kind in schema.pop("anyOf") if kind != {"type": "null"})
    schema |= {_BOUNDS[bound]: schema.pop(bound) for bound in _BOUNDS.keys() & schema.keys()}
    if name in _GRAMMARS:
        pattern, example = _GRAMMARS[name]
        schema |= {"pattern": f"^({pattern})$", "examples": [example]}


def documented(
    status: int, model: type[BaseModel] | None, *others: int, also_201: bool = False
) -> dict[str, Any]:  # Any: arguments of FastAPI's decorators
    """Return the arguments of a route's decorator: *model* with *status*, problems with the *others*."""
    headers = _HEADERS | (_TAG if model in (ResolveAnswer, RouteAnswer) else {})
    headers |= _FLAGS if model in (ResolveAnswer, ResolveBatchAnswer) else {}
    success: dict[str, Any] = {"description": "Done", "headers": headers}
    if model:
        success["model"] = model
    responses: dict[int | str, dict[str, Any]] = {status: success}
    if also_201 or status == 201:
        place = _LOCATION if model is RouteAnswer else {}
        responses[201] = success | {"description": "Created", "headers": headers | place}
    if status == 201 and model is RouteAnswer:
        responses[200] = success | {"description": "It was so already: nothing changed"}
    for other in (*others, 401, 403, 414, 429, 500, 503):
        responses[other] = _problem(other)
    if 304 in others:
        responses[304] = {"description": "The route still has this tag", "headers": headers}
    return {"responses": responses}


def documented_stream(*refusals: int) -> dict[str, Any]:  # Any: arguments of FastAPI's decorators
    """Return the arguments of a route's decorator: a stream of events, problems with the *refusals*."""
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    headers = {"X-Correlation-ID": _HEADERS["X-Correlation-ID"]}
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "Events, until the stream ends", "headers": headers, "content": content}
    }
    for refusal in (*refusals, 401, 403, 414, 429, 500):
        responses[refusal] = _problem(refusal)
    return {"responses": responses, "response_class": StreamingResponse}


def _problem(status: int) -> dict[str, Any]:
    titles = {problem.title for problem in PROBLEMS.values() if problem.status == status}
    if status == INTERNAL.status:
        titles = {INTERNAL.title}
    description = _REFUSALS.get(status) or "; ".join(sorted(titles))
    schema = {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}
    content = {"application/problem+json": {"schema": schema}}
    headers = {401: _CHALLENGE, 429: _RETRY | _LIMITS, 503: _RETRY}.get(status, {})
    return {"description": description, "headers": headers, "content": content}
