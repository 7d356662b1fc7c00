"""`docs/api.md` and the server have the same calls, and the examples do what the page says."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.node import Node

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
CALL = re.compile(r"^### `([A-Z]+) (\S+)`$", re.MULTILINE)


def _sections() -> dict[tuple[str, str], str]:
    """Return the text of each call by its method and path."""
    _, *parts = CALL.split(PAGE.read_text())
    calls = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return {(method, path): text for method, path, text in calls}


def _examples() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_every_call_has_its_section_and_every_section_its_call(sqlite_stack: Node) -> None:
    paths = httpx2.get(f"{sqlite_stack.url}/openapi.json").json()["paths"]
    served = {(method.upper(), path) for path, calls in paths.items() for method in calls}
    assert sorted(_sections()) == sorted(served)


def test_every_section_has_an_example_of_its_call() -> None:
    for (method, path), text in _sections().items():
        example = re.search(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert example, (method, path)
        first = path.partition("{")[0]
        assert f"$base{first}" in example[1], (method, path)
        assert method == "GET" or f"-X {method} " in example[1], (method, path)


def test_every_documented_status_of_success_is_told(sqlite_stack: Node) -> None:
    paths = httpx2.get(f"{sqlite_stack.url}/openapi.json").json()["paths"]
    for (method, path), text in _sections().items():
        statuses = paths[path][method.lower()]["responses"]
        told = {status for status in statuses if re.search(rf"\b{status}\b", text)}
        assert {status for status in statuses if status[0] in "23"} <= told, (method, path)


@pytest.mark.parametrize("number", range(len(_examples())))
def test_example_is_a_command_that_the_shell_understands(number: int) -> None:
    assert subprocess.run(["bash", "-n", "-c", _examples()[number]], timeout=10).returncode == 0


def test_examples_run_from_top_to_bottom(sqlite_stack: Node, tmp_path: Path) -> None:
    """In the order of the page, against a server; none may be ill-formed, and none may fail."""
    script = "\n".join(
        re.sub(r"(?m)(?<!\$\()^curl ", "curl -s -w '\\n%{http_code}\\n' ", e) for e in _examples()
    )
    script = script.replace("http://localhost:8000", sqlite_stack.url).replace("wait=30", "wait=0")
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    statuses = {int(line) for line in run.stdout.splitlines() if re.fullmatch(r"\d{3}", line)}
    assert run.returncode == 0, run.stderr
    # A tag of the page is of no real history, and the route is deleted on the way.
    assert {200, 204} <= statuses <= {200, 201, 204, 404, 412}


def test_documents_are_valid_json() -> None:
    found = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    documents = [json.loads(document) for document in found]
    shown = [result for document in documents for result in document.get("results", [document])]
    assert [result for result in shown if not {"tenant", "url"} <= set(result)] == []
    assert len(documents) == 3
