"""Requests made up from the OpenAPI document, right ones and wrong ones: the server keeps to the document, refuses
the wrong ones and never fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.node import Node

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance"
)
# A long poll would wait as long as it is told; the stream never ends.
CONFIGURATION = '[parameters]\n"query.wait" = 0\n'
NEVER_ENDS = "/api/v1/changes/stream"


def test_made_up_requests_are_answered_as_documented(tmp_path: Path, sqlite_stack: Node) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{sqlite_stack.url}/openapi.json"]
    options = ["--phases=examples,coverage,fuzzing", "--seed=1", "--max-examples=10", "--no-shrink"]
    options += [f"--checks={CHECKS}", f"--exclude-path={NEVER_ENDS}", "--request-timeout=10"]
    options += ["--generation-database=none", "--continue-on-failure", "--warnings=off"]
    run = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "unhandled_error" not in sqlite_stack.log()
