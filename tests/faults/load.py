"""Load L0: what is asked of two nodes while something breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from traffic_manager.routing.model import RouteKey

# Of an answer, from when its request was due. Probes are as patient as an orchestrator's.
DEADLINE_S = 2.0
PROBE_DEADLINE_S = 1.0


@dataclass(frozen=True)
class Load:
    """What is asked for, each second, of the servers on *ports* in turn. *known* routes are active all the time,
    the most popular first; *changing* ones come and go. *forbidden*: bytes that no answer may hold."""

    ports: Sequence[int]
    known: Sequence[RouteKey]
    changing: Sequence[RouteKey]
    forbidden: bytes
    seed: int
    resolves: float = 200.0
    strong_resolves: float = 2.0
    writes: float = 5.0
    # Of each node's liveness and readiness.
    probes: float = 10.0
    # The share of resolves that ask for a name without a route, and how many such names there are.
    unknown_share: float = 0.05
    unknown_names: int = 100
    # Do as a load balancer does: ask no node that is not ready or says `Connection: close`.
    is_balanced: bool = False
