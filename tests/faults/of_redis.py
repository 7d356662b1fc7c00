"""Faults of Redis, F20 to F27."""

from __future__ import annotations

from tests.faults.criteria import known_routes_answer, nodes_stay_ready, nothing_fails, p99_holds
from tests.faults.scenario import Scenario
from tests.promises.places import killed

# One node holds no route and one a quarter of them: else nobody would ask Redis.
ASKING_REDIS = ({"MIRROR_MAX_ROUTES": "0"}, {"MIRROR_MAX_ROUTES": "500"})

SCENARIOS = [
    Scenario(
        "F20",
        "Redis killed",
        lambda stand: killed(stand.servers.redis),
        (nothing_fails, known_routes_answer(1.0), p99_holds, nodes_stay_ready),
        ASKING_REDIS,
    ),
]
