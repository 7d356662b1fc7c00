"""Requests made up from the OpenAPI document, right ones and wrong ones, alone and one after the other: the server
keeps to the document, refuses the wrong ones, never fails, and lets nobody in without a key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.node import Node, wait_until

# What no schema can state, rule by rule.
HOOKS = Path(__file__).with_name("right_refusals.py")
# A long poll would wait as long as it is told; of a stream the first event tells enough. 503 is the answer to a
# revision that does not exist yet, 412 to one of another history.
CONFIGURATION = f"""
hooks = "{HOOKS}"
max-stream-events = 1

[parameters]
"query.wait" = 0

[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "412", "415", "422", "503"]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks everybody for a key, as often as somebody comes without one."""
    settings = {**REQUIRED, "LIMIT_FAILED_SIGN_INS": "1000000"}
    with Node(tmp_path_factory.mktemp("guarded"), settings) as node:
        yield node.start()


@pytest.fixture(scope="module")
def key(node: Node) -> str:
    """A key that may do everything with routes, and with keys all but end itself, which requests here come to try."""
    text = a_key_for(node, "editor:*/*", "admin:team-a/*")
    wait_until(lambda: httpx2.get(f"{node.url}/api/v1/whoami", headers=bearer(text)).status_code == 200)
    return text


@pytest.mark.parametrize("with_key", [True, False], ids=["with a key", "without"])
def test_made_up_requests_are_answered_as_documented(
    tmp_path: Path, node: Node, key: str, with_key: bool
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    document = tmp_path / "openapi.json"
    document.write_text(httpx2.get(f"{node.url}/openapi.json", headers=bearer(key)).text)
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), f"--url={node.url}"]
    options = ["--phases=examples,coverage,fuzzing,stateful", "--seed=1", "--max-examples=10", "--no-shrink"]
    options += [
        "--checks=all",
        "--request-timeout=10",
        "--generation-database=none",
        "--continue-on-failure",
        "--warnings=off",
    ]
    if with_key:
        options += [f"--header=Authorization: Bearer {key}", "--generation-with-security-parameters=false"]
    run = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "unhandled_error" not in node.log()
    assert httpx2.get(f"{node.url}/api/v1/whoami", headers=bearer(key)).status_code == 200
