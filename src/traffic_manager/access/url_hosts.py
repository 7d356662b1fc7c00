"""The file that says where the routes of tenants may point to: read at start; a bad one is a reason not to start."""

from __future__ import annotations

import json
from typing import Any

from traffic_manager.access.permissions import ANY, without_repetition
from traffic_manager.routing.model import name_problem
from traffic_manager.routing.urls import HostsByTenant, host_pattern_problem


def hosts_by_tenant(text: str) -> HostsByTenant:
    """Return what the file says. Raises ValueError that says what is wrong, and where."""
    document = json.loads(text, object_pairs_hook=without_repetition)
    if not isinstance(document, dict):
        raise ValueError('must be an object such as {"team-a": ["*.team-a.example.com"]}')
    return {_tenant(name): _hosts(hosts, name) for name, hosts in document.items()}


def _tenant(name: str) -> str:
    problem = None if name == ANY else name_problem("tenant", name)
    if problem:
        raise ValueError(f"{name[:64]!r}: {problem.detail}; or * for all that are not named")
    return name


def _hosts(written: Any, tenant: str) -> tuple[str, ...]:  # Any: a JSON value
    if not isinstance(written, list) or not all(isinstance(host, str) for host in written):
        raise ValueError(f"{tenant}: must be a list of hosts")
    for host in written:
        if problem := host_pattern_problem(host):
            raise ValueError(f"{tenant}: {host[:64]!r} {problem}")
    return tuple(written)
