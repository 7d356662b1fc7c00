"""The OpenAPI document is valid, complete, and true. That answers are as it says, the client of the other tests
checks on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from tests.node import Json, Node

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture(scope="module")
def document(sqlite_stack: Node) -> Json:
    """The document, as the server gives it."""
    answer = httpx2.get(f"{sqlite_stack.url}/openapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    found: Json = answer.json()
    return found


def _calls(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, calls in document["paths"].items():
        for method in METHODS & set(calls):
            yield method, path, calls[method]


def test_document_is_valid_openapi_3_1(document: Json) -> None:
    jsonschema_rs.validate(OPENAPI_31, document)
    assert document["openapi"].startswith("3.1.")


def test_every_reference_leads_somewhere(document: Json) -> None:
    for reference in _found(document, "$ref"):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert place


def test_every_schema_is_used(document: Json) -> None:
    used = {reference.rpartition("/")[2] for reference in _found(document, "$ref")}
    assert sorted(set(document["components"]["schemas"]) - used) == []


def test_examples_keep_to_their_schemas(document: Json) -> None:
    checked = 0
    for schema in _schemas(document):
        for example in schema.get("examples", []):
            whole = {**schema, "components": document["components"]}
            jsonschema_rs.validate(whole, example)
            checked += 1
    assert checked > 30


def test_every_call_has_a_summary_a_description_and_a_success(document: Json) -> None:
    for method, path, call in _calls(document):
        assert call["summary"], (method, path)
        assert call["description"], (method, path)
        assert [status for status in call["responses"] if status.startswith("2")], (method, path)


def test_every_operation_has_an_id_of_its_own(document: Json) -> None:
    ids = [call["operationId"] for _, _, call in _calls(document)]
    assert len(set(ids)) == len(ids)


def test_every_refusal_is_a_problem_document(document: Json) -> None:
    for method, path, call in _calls(document):
        for status, answer in call["responses"].items():
            if path.startswith("/api/") and int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
                schema = answer["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ProblemAnswer"}


def test_every_call_of_the_api_tells_of_wrong_input_and_long_targets(document: Json) -> None:
    for method, path, call in _calls(document):
        if path.startswith("/api/"):
            assert {"400", "414", "500", "503"} <= set(call["responses"]), (method, path)


def test_every_call_with_a_body_tells_of_wrong_ones(document: Json) -> None:
    for method, path, call in _calls(document):
        if "requestBody" in call:
            assert {"413", "415", "422"} <= set(call["responses"]), (method, path)


def test_no_answer_of_the_framework_is_left_in(document: Json) -> None:
    assert "HTTPValidationError" not in str(document)


def _found(node: object, name: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name and isinstance(value, str):
                yield value
            yield from _found(value, name)
    elif isinstance(node, list):
        for item in node:
            yield from _found(item, name)


def _schemas(node: object) -> Iterator[Json]:
    """Yield whatever has examples as a schema has them: a list."""
    if isinstance(node, dict):
        if isinstance(node.get("examples"), list):
            yield node
        for value in node.values():
            yield from _schemas(value)
    elif isinstance(node, list):
        for item in node:
            yield from _schemas(item)
