"""What our own code never does, whatever it would be good for. Each rule is shown to find what it is for."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "traffic_manager"
MODULES = {path.relative_to(SOURCE): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}

# Reading what they wrote can run anything.
_UNSAFE_READERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
_RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
_SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}
_SECRET = re.compile(r"(^|_)(secret|password|pepper|digest|signature|mac|token_hash)s?$")
# A statement begins or goes on like this; prose that does is no f-string.
_SQL = re.compile(
    r"\b(select\b.+\bfrom|insert into|update\b.+\bset|delete from|create (role|table))\b",
    re.DOTALL | re.IGNORECASE,
)


def _reads_what_can_run(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        if {name.partition(".")[0] for name in names} & _UNSAFE_READERS:
            yield node


def _runs_text(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in _RUNS_TEXT:
                yield node
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in _SHELLS:
                yield node
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                yield node


def _compares_secrets(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield comparisons that take the longer, the more of a secret was guessed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            is_with_text = any(isinstance(side, ast.Constant) for side in sides)
            if not is_with_text and any(_SECRET.search(_name_of(side)) for side in sides):
                yield node


def _name_of(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _name_of(function)
        case _:
            return ""


def _trusts_any_certificate(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="verify" | "check_hostname", value=ast.Constant(value=False)):
                yield node
            case ast.Attribute(attr="CERT_NONE" | "_create_unverified_context"):
                yield node


def _joins_sql(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield statements that something else than a constant is written into."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=parts):
                text = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
                filled = [part.value for part in parts if isinstance(part, ast.FormattedValue)]
            case ast.BinOp(left=ast.Constant(value=str() as text), op=ast.Mod() | ast.Add(), right=right):
                filled = [right]
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as text), attr="format")):
                filled = list(node.args)
            case _:
                continue
        if _SQL.search(text) and not all(_is_constant(value) for value in filled):
            yield node


def _is_constant(node: ast.AST) -> bool:
    names = [found for found in ast.walk(node) if isinstance(found, ast.Name | ast.Attribute)]
    return all(_name_of(name).strip("_").isupper() for name in names)


RULES: dict[str, tuple[Callable[[ast.AST], Iterator[ast.AST]], str]] = {
    "reads nothing that can run": (_reads_what_can_run, "from pickle import loads"),
    "runs no text and no shell": (_runs_text, "subprocess.run(command, shell=True)"),
    "compares no secret in a time that tells of it": (_compares_secrets, "digest == self._digest"),
    "trusts no certificate unseen": (_trusts_any_certificate, "Client(verify=False)"),
    "joins no value to a statement": (_joins_sql, 'f"select url from routes where tenant = {tenant}"'),
}
# Read and found good, by how the code there begins.
REVIEWED = {
    "digest == entry.chain": "digests of the log, which is no secret from whoever runs this",
    "file.read() != digest.digest()": "a checksum of a file of our own, and no secret",
    "f\"select {', '.join(_COLUMNS)} from changes": "columns of a constant",
    "f\"insert into changes ({', '.join(_CHANGE_FIELDS)}": "fields of a constant",
    "f'select {columns} from jsonb_array_elements": "columns of a constant, joined at import",
}
_STATEMENT = re.compile(
    r"\s*(select\b.+\bfrom|insert into|delete from|update \w+ set)\b", re.DOTALL | re.IGNORECASE
)


@pytest.mark.parametrize("name", RULES)
def test_rule_finds_what_it_is_for(name: str) -> None:
    rule, example = RULES[name]
    assert list(rule(ast.parse(example)))


@pytest.mark.parametrize("name", RULES)
def test_our_code_keeps_to_it(name: str) -> None:
    rule, _ = RULES[name]
    found = [(path, ast.unparse(node)) for path, tree in MODULES.items() for node in rule(tree)]
    assert [place for place in found if not _begins(place[1], tuple(REVIEWED))] == []


def test_what_was_reviewed_is_still_there() -> None:
    found = [
        ast.unparse(node) for rule, _ in RULES.values() for tree in MODULES.values() for node in rule(tree)
    ]
    assert [text for text in REVIEWED if not any(_begins(place, (text,)) for place in found)] == []


def _begins(code: str, reviewed: tuple[str, ...]) -> bool:
    """Return whether *code* begins like one of those; which quotes are written depends on Python's version."""
    return code.replace('"', "'").startswith(tuple(text.replace('"', "'") for text in reviewed))


def test_statements_stand_in_the_room_of_the_database_alone() -> None:
    found = [
        (path, node.value)
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _STATEMENT.match(node.value)
    ]
    assert found
    assert [place for place in found if place[0].parts[0] != "db"] == []
