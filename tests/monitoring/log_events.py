"""Which events the source can log, at which levels and with which fields: read from the code, not run."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "traffic_manager"
_LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
_AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class LogEvent:
    """One event, from all places that log it."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def log_events(folder: Path = SOURCE) -> dict[str, LogEvent]:
    """Return the events of the modules in *folder*, by their names."""
    found: dict[str, LogEvent] = defaultdict(LogEvent)
    for path in sorted(folder.rglob("*.py")):
        for name, levels, fields in _Module(ast.parse(path.read_text())).events():
            found[name].levels |= levels
            found[name].fields |= fields
    return dict(found)


class _Module:
    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {id(call.func) for call in self._calls}
        # `say = log.info if ... else log.warning`: what `say` may be.
        self._mentioned = {
            level for node in ast.walk(tree) if (level := _level(node)) and id(node) not in called
        }

    def events(self) -> Iterator[tuple[str, set[str], set[str]]]:
        functions = [node for node in ast.walk(self._tree) if isinstance(node, _AnyFunction)]
        for function in functions:
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and (levels := self._levels_of(call)):
                    yield from self._events_of(call, levels, function)

    def _levels_of(self, call: ast.Call) -> set[str]:
        if level := _level(call.func):
            return {level}
        is_say = isinstance(call.func, ast.Name) and call.func.id == "say"
        return self._mentioned if is_say else set()

    def _events_of(
        self, call: ast.Call, levels: set[str], function: _AnyFunction
    ) -> Iterator[tuple[str, set[str], set[str]]]:
        """Yield the events of *call* in *function*: by name, or by whoever calls the function with a name."""
        [event, *_] = call.args
        fields = {keyword.arg for keyword in call.keywords if keyword.arg not in (None, "exc_info")}
        callers = [c for c in self._calls if _name_of(c.func) == function.name]
        more = {}
        if any(keyword.arg is None for keyword in call.keywords):
            more = {id(caller): _keywords(caller) - _parameters(function) for caller in callers}
        if isinstance(event, ast.Constant):
            yield str(event.value), levels, fields.union(*more.values())
            return
        assert isinstance(event, ast.Name), f"line {event.lineno}: an event that nobody can read here"
        for name in _default(function, event.id):
            yield name, levels, fields
        for caller in callers:
            if (named := _argument(function, event.id, caller)) is not None:
                yield named, levels, fields | more.get(id(caller), set())


def _level(node: ast.AST) -> str | None:
    """Return the level of `log.<method>`, None for anything else."""
    match node:
        case ast.Attribute(value=ast.Name(id="log"), attr=method):
            return _LEVELS.get(method)
    return None


def _name_of(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _default(function: _AnyFunction, name: str) -> Iterator[str]:
    given = function.args.defaults
    for argument, default in zip(
        function.args.args[len(function.args.args) - len(given) :], given, strict=True
    ):
        if argument.arg == name and isinstance(default, ast.Constant):
            yield str(default.value)


def _argument(function: _AnyFunction, name: str, caller: ast.Call) -> str | None:
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    given = dict(zip(names, caller.args, strict=False)).get(name)
    return str(given.value) if isinstance(given, ast.Constant) else None


def _keywords(call: ast.Call) -> set[str]:
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def _parameters(function: _AnyFunction) -> set[str]:
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
