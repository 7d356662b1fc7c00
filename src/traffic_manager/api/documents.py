"""How calls are described in OpenAPI: every answer that they can give, with its shape."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from traffic_manager.api.problems import INTERNAL, PROBLEMS
from traffic_manager.api.schemas import ProblemAnswer

_REFUSALS = {
    400: "The request is ill-formed; `errors` names each field",
    413: "The body is too large",
    414: "Path and query are too long",
    415: "The body is not uncompressed `application/json`",
}
_HEADERS = {
    "TM-Revision": {
        "description": "The revision that the answer was true at, or that the write made.",
        "schema": {"type": "string"},
    },
    "X-Correlation-ID": {"description": "The id of this request.", "schema": {"type": "string"}},
}


def documented(
    status: int, model: type[BaseModel] | None, *others: int, also_201: bool = False
) -> dict[str, Any]:  # Any: arguments of FastAPI's decorators
    """Return the arguments of a route's decorator: *model* with *status*, problems with the *others*."""
    success: dict[str, Any] = {"description": "Done", "headers": _HEADERS | _success_headers(status)}
    if model:
        success["model"] = model
    responses: dict[int | str, dict[str, Any]] = {status: success}
    if also_201:
        responses[201] = success | {"description": "Created"}
    if status == 201 and model:
        responses[200] = success | {"description": "It was so already: nothing changed"}
    for other in (*others, 414, 500):
        responses[other] = _not_modified() if other == 304 else _problem(other)
    return {"responses": responses}


def _success_headers(status: int) -> dict[str, Any]:
    if status == 204:
        return {}
    return {
        "ETag": {"description": "The route's tag, where the answer is one.", "schema": {"type": "string"}}
    }


def _not_modified() -> dict[str, Any]:
    return {"description": "The route still has this tag", "headers": _HEADERS}


def _problem(status: int) -> dict[str, Any]:
    titles = {problem.title for problem in PROBLEMS.values() if problem.status == status}
    if status == INTERNAL.status:
        titles = {INTERNAL.title}
    description = _REFUSALS.get(status) or "; ".join(sorted(titles))
    schema = {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}
