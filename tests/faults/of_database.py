"""Faults of the database, F01 to F17."""

from __future__ import annotations

from tests.faults.criteria import (
    known_routes_answer,
    nodes_stay_ready,
    old_answers_are_flagged,
    p99_holds,
    writes_are_refused,
    writes_succeed_again,
)
from tests.faults.scenario import Scenario
from tests.promises.places import killed

AS_THOUGH_NOTHING_WAS = (known_routes_answer(), p99_holds, nodes_stay_ready)

SCENARIOS = [
    Scenario(
        "F01",
        "PostgreSQL killed",
        lambda stand: killed(stand.servers.postgres),
        (*AS_THOUGH_NOTHING_WAS, old_answers_are_flagged, writes_are_refused(2.0), writes_succeed_again(3.0)),
    ),
]
