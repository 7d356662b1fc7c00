"""Many rows for PostgreSQL in one statement: they travel as one parameter, a JSON array of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from string import ascii_lowercase

import orjson

from traffic_manager.db.pool import Write
from traffic_manager.db.round_trip import Command


def as_command(writes: Sequence[Write]) -> Command:
    """Return *writes* as one statement: each that is sent gives the interpreter lock away. They touch other rows."""
    # All rows in one parameter: `unnest` of arrays took three times as long, `json` instead of `jsonb` as well.
    names = [f"rows_{letter}" for letter, _ in zip(ascii_lowercase, writes, strict=False)]
    rows = [orjson.dumps(write.rows, default=bytes.hex).decode() for write in writes]
    statement = _in_one(tuple((write.statement, write.types) for write in writes))
    return Command(statement, dict(zip(names, rows, strict=True)))


@cache
def _in_one(writes: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Return one statement that does all of *writes*, with the parameters `:rows_a`, `:rows_b`, ..."""
    texts = [
        with_rows(*write, f"rows_{letter}") for letter, write in zip(ascii_lowercase, writes, strict=False)
    ]
    before = ", ".join(
        f"{letter} as ({text})" for letter, text in zip(ascii_lowercase, texts[:-1], strict=False)
    )
    return f"with {before} {texts[-1]}" if before else texts[-1]


@cache
def with_rows(statement: str, types: tuple[str, ...], name: str = "rows") -> str:
    """Return *statement* with a query over the parameter *name*, a JSON array of arrays, for its `{rows}`."""
    columns = ", ".join(_column(index, of_type) for index, of_type in enumerate(types))
    return statement.format(
        rows=f"select {columns} from jsonb_array_elements(cast(:{name} as jsonb)) as r(value)"
    )


def _column(index: int, of_type: str) -> str:
    if of_type == "bytea":
        return f"decode(r.value->>{index}, 'hex')"
    return f"cast(r.value->>{index} as {of_type})"
