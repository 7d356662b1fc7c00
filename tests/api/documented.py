"""Holds every answer that a test sees against the OpenAPI document: status, media type, headers and body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import jsonschema_rs

from tests.node import Json

CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
REVISION = re.compile(r"[0-9a-f]{8}\.[0-9]+")


class Documented:
    """Knows what *document* promises."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._patterns = {
            template: re.compile(re.sub(r"\{\w+\}", "[^/]+", template)) for template in document["paths"]
        }
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def check(self, response: httpx2.Response) -> None:
        """Fail unless *response* is one of those promised for its call."""
        response.read()
        assert CORRELATION_ID.fullmatch(response.headers["X-Correlation-ID"])
        promised = self.promise(response.request.method, response.request.url.path)
        if promised is None:
            assert response.status_code in (404, 405), response.text
            self._check_body(response, {"$ref": "#/components/schemas/ProblemAnswer"})
            return
        answer = promised.get(str(response.status_code))
        assert answer is not None, f"undocumented status {response.status_code}: {response.text}"
        content: Json = answer.get("content", {})
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        assert media_type in content or (not content and not response.content), f"undocumented {media_type}"
        if media_type.endswith("json"):
            self._check_body(response, content[media_type]["schema"])
        if "TM-Revision" in response.headers:
            assert REVISION.fullmatch(response.headers["TM-Revision"])

    def promise(self, method: str, path: str) -> Mapping[str, Any] | None:
        """Return the answers promised for a call, None if there is no such call."""
        # A path without parameters wins over a template, as in the server.
        for template, pattern in sorted(self._patterns.items(), key=lambda item: item[0].count("{")):
            call = self._document["paths"][template].get(method.lower())
            if call and pattern.fullmatch(path):
                responses: Mapping[str, Any] = call["responses"]
                return responses
        return None

    def _check_body(self, response: httpx2.Response, schema: Json) -> None:
        self._validator(json.dumps(schema)).validate(response.json())
        if response.headers["Content-Type"] == "application/problem+json":
            assert response.json()["status"] == response.status_code
            assert response.json()["correlation_id"] == response.headers["X-Correlation-ID"]

    def _validator(self, schema: str) -> jsonschema_rs.Validator:
        if schema not in self._validators:
            whole = {**json.loads(schema), "components": self._document["components"]}
            self._validators[schema] = jsonschema_rs.validator_for(whole)
        return self._validators[schema]
