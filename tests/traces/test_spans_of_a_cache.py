"""A resolve that memory does not know shows Redis and the database as its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node import Node, a_key, a_route, resolve
from tests.servers import RedisServer
from tests.traces.collector import a_collector

RESOLVE = "GET /api/v1/routes/resolve"


@pytest.mark.servers
def test_a_miss_shows_the_cache_and_the_database_as_parts_of_its_request(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    settings = {**redis_server.env(), "MIRROR_MAX_ROUTES": "0"}
    with a_collector() as collector, Node(tmp_path, {**settings, **collector.settings}) as node:
        with node.start().client() as client:
            client.post("/api/v1/routes", json=a_route(service="traced-cache")).raise_for_status()
            assert resolve(client, a_key(service="traced-cache")).status_code == 200
        [request] = collector.wait_for(RESOLVE)
        parts = [collector.wait_for(name)[0] for name in ("cache.get", "store.look_up", "cache.put")]
        assert node.stop() == 0
    seen = [(part.trace_id, part.parent_id, part.kind) for part in parts]
    assert seen == [(request.trace_id, request.span_id, "CLIENT")] * 3
    assert [part.began_ns for part in parts] == sorted(part.began_ns for part in parts)
