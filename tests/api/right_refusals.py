"""Hooks of schemathesis, which calls it a failure when a request that keeps to the document is refused.

`filter_failure` lets pass what no schema can state, rule by rule; all other refusals of such a request stay failures.
`before_call` mends requests that it takes for right ones, and are none.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import schemathesis

# By the code of the problem, or of each of its `errors`.
CODES = {
    "epoch-mismatch": "which history this database has, only the server knows",
    "history-gone": "the same with how far that has come",
    "precondition-failed": "the same with the state of a route",
    "url-address": "which addresses are refused is a list",
    "url-scheme": "which schemes are taken is a setting",
    "url-escape": "the rest of the grammar of URLs is code, with tests of its own: for this and the next",
    "url-host": "",
    "url-path": "",
    "url-port": "",
}
# The same by field and code.
ERRORS = {
    ("page_token", "invalid-page-token"): "nobody can make one up",
    ("since", "invalid-parameter"): "no pattern knows how many days a month has",
    ("until", "invalid-parameter"): "",
    ("actor", "invalid-parameter"): "no pattern knows what can be printed",
    ("url", "missing"): "which operation of a batch needs which fields: for this and the next",
    ("url", "unknown-field"): "",
    ("is_active", "unknown-field"): "",
}


# Any: schemathesis's own types, which say nothing of what is needed here.
@schemathesis.hook
def filter_failure(_context: Any, failure: Any, _case: Any, response: Any) -> bool:
    """Return whether *failure* is one."""
    if response.headers.get("content-type") == ["text/event-stream"]:
        # OpenAPI 3.1 has words for the whole text alone, and it looks for a schema of each event.
        return type(failure).__name__ != "JsonSchemaError"
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = response.json()
    if "errors" not in problem:
        return problem["type"].rpartition(":")[2] not in CODES
    return not all(
        error["code"] in CODES or (error["field"], error["code"]) in ERRORS for error in problem["errors"]
    )


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make a request right that is to be right."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    for parameter in case.operation.definition.raw.get("parameters", ()):
        given = case.headers if parameter["in"] == "header" else case.query
        _mend(given or {}, parameter["name"], parameter["schema"])
    case.body = _with_integers(case.body)


def _mend(given: Any, name: str, schema: dict[str, Any]) -> None:
    if name not in given:
        return
    if name == "Idempotency-Key":
        given[name] = str(uuid4())  # else it would name another request
    elif not re.search(schema.get("pattern", ""), str(given[name])):
        # Where it combines parameters that may be left out, it writes `0` into each, whatever their patterns are.
        given[name] = schema["examples"][0]


def _with_integers(body: Any) -> Any:
    """Return *body* with 1 for 1.0, which JSON Schema takes for an integer, and we do not."""
    if isinstance(body, dict):
        return {name: _with_integers(value) for name, value in body.items()}
    return int(body) if isinstance(body, float) and body.is_integer() else body
