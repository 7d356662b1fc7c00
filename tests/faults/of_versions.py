"""Tables of other versions than the program's, F66."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.faults.acts import seconds_until
from tests.faults.criteria import known_routes_answer, nodes_stay_ready, nothing_fails, p99_holds
from tests.faults.scenario import Scenario
from tests.faults.stand import Stand
from tests.node import Node
from tests.promises.caller import Caller
from traffic_manager.db.schema import NEXT_SCHEMA_VERSION

_LOOKS_S = 10.0  # workers look at the database every two seconds


@contextmanager
def _of_version(stand: Stand, version: str) -> Iterator[None]:
    """Say that the tables are of another version."""
    right = stand.ask_database("select version_num from alembic_version")
    stand.ask_database(f"update alembic_version set version_num = '{version}'")  # noqa: S608 a constant
    yield
    stand.ask_database(f"update alembic_version set version_num = '{right}'")  # noqa: S608 from this table


@contextmanager
def _other_version(stand: Stand, version: str) -> Iterator[None]:
    """Have tables that the nodes must not use: they say so, and go on with what they know."""
    with _of_version(stand, version):
        took_s = seconds_until(lambda: not any(map(_is_ready, stand.nodes)), _LOOKS_S)
        _expect(stand, took_s < _LOOKS_S, "a node is ready for tables of another version")
        for node in stand.nodes:
            # The worker that is asked may be another one, which has not looked yet.
            took_s = seconds_until(partial(_says, node, version), _LOOKS_S)
            _expect(stand, took_s < _LOOKS_S, "the version is not said to be the reason")
        yield
    took_s = seconds_until(lambda: all(map(_is_ready, stand.nodes)), _LOOKS_S)
    _expect(stand, took_s < _LOOKS_S, "a node is not ready again")


def _says(node: Node, version: str) -> bool:
    return version in Caller(node).ask("GET", "/health/ready").json["checks"]["database"]["message"]


def _is_ready(node: Node) -> bool:
    return node.is_running() and node.is_ready()


def _expect(stand: Stand, is_so: bool, otherwise: str) -> None:
    if not is_so:
        stand.findings.append(otherwise)


SCENARIOS = [
    Scenario(
        "F66/next",
        "tables of the next version",
        lambda stand: _of_version(stand, NEXT_SCHEMA_VERSION),
        (nothing_fails, known_routes_answer(1.0), p99_holds, nodes_stay_ready),
    ),
    Scenario(
        "F66/older",
        "tables of an older version",
        lambda stand: _other_version(stand, "0001"),
        (known_routes_answer(1.0), p99_holds),
    ),
]
