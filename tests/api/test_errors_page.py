"""`docs/errors.md` and the server know the same problems."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from traffic_manager.api import app
from traffic_manager.api.problems import INTERNAL, PROBLEMS, STATUS_OF_CODE, TYPE_PREFIX
from traffic_manager.errors import InvalidInput

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
SOURCES = [
    *(ROOT / "src/traffic_manager/api").glob("*.py"),
    *(ROOT / "src/traffic_manager/routing").glob("*.py"),
]
# Who takes a code, and as which argument.
TAKES_CODE = {"FieldProblem": 1, "RequestRefused": 1, "invalid": 1, "_parameter": 1, "_body": 0}
# Where codes stand in other ways: the rules of URLs, and what the framework's errors become.
URL_CODE = re.compile(r"url-[a-z]+")
FROM_THE_FRAMEWORK = {
    "not-found": 404,
    "method-not-allowed": 405,
    "refused": 400,
    "missing-parameter": 400,
    "invalid-parameter": 400,
    "invalid-value": 422,
    **{code: STATUS_OF_CODE.get(code, 422) for code in app._CODES.values()},
}


def _documented() -> dict[str, int]:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE.read_text(), re.MULTILINE)
    assert len(dict(rows)) == len(rows), "a code has two rows"
    return {code: int(status) for code, status in rows}


def _in_code() -> dict[str, int]:
    kinds = [problem for kind, problem in PROBLEMS.items() if kind is not InvalidInput]
    found = {problem.code: problem.status for problem in [*kinds, INTERNAL]}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            found |= dict(_codes_of(node))
    return found | FROM_THE_FRAMEWORK


def _codes_of(node: ast.AST) -> Iterator[tuple[str, int]]:
    match node:
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in TAKES_CODE:
            given = arguments[TAKES_CODE[name]] if len(arguments) > TAKES_CODE[name] else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                status = arguments[0].value if isinstance(arguments[0], ast.Constant) else None
                is_refusal = name == "RequestRefused" and isinstance(status, int)
                yield given.value, int(str(status)) if is_refusal else STATUS_OF_CODE.get(given.value, 422)
        case ast.Constant(value=str() as text) if URL_CODE.fullmatch(text):
            yield text, 422


def test_every_problem_has_its_row_with_its_status_and_every_row_its_problem() -> None:
    assert _documented() == _in_code()


def test_every_code_with_a_status_of_its_own_is_used() -> None:
    assert sorted(set(STATUS_OF_CODE) - set(_in_code())) == []


def test_every_row_says_when_and_what_to_do() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| `[a-z-]+` \| \d", line)]
    assert [row for row in rows if len([cell for cell in row.strip("| ").split(" | ") if cell]) != 4] == []


def test_example_is_of_a_documented_type() -> None:
    found = re.findall(rf'"{TYPE_PREFIX}([a-z-]+)"', PAGE.read_text())
    assert found
    assert set(found) <= set(_documented())
