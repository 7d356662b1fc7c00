"""Servers that all tests of the API share, one of each kind per test process: keep to keys of your own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx2
import pytest

from tests.access.issue import PEPPER
from tests.api.documented import Documented
from tests.node import Node
from tests.servers import PostgresServer, RedisServer

# Grouped, so that with several test processes each kind of server is started in one of them.
STACKS = (
    "sqlite_stack",
    pytest.param("mirrored_stack", marks=pytest.mark.servers),
    pytest.param("cache_aside_stack", marks=pytest.mark.servers),
)


@pytest.fixture(scope="session")
def sqlite_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The embedded default: SQLite, one worker. Makes keys, but asks nobody for one."""
    with Node(tmp_path_factory.mktemp("sqlite"), {"AUTH_PEPPER": PEPPER}) as node:
        yield node.start()


@pytest.fixture(scope="session")
def mirrored_stack(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Node]:
    """PostgreSQL and two workers, each with a complete mirror."""
    settings = {**postgres.create_database(f"api_mirrored_{os.getpid()}"), "API_WORKERS": "2"}
    with Node(tmp_path_factory.mktemp("mirrored"), settings) as node:
        yield node.start("--migrate")


@pytest.fixture(scope="session")
def cache_aside_stack(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, redis_server: RedisServer
) -> Iterator[Node]:
    """PostgreSQL with Redis in front and no mirror."""
    database = postgres.create_database(f"api_cache_aside_{os.getpid()}")
    settings = {**database, **redis_server.env(), "MIRROR_MAX_ROUTES": "0"}
    with Node(tmp_path_factory.mktemp("cache-aside"), settings) as node:
        yield node.start("--migrate")


@pytest.fixture(scope="session", params=STACKS)
def stack(request: pytest.FixtureRequest) -> Node:
    """Each way to run the server; all of them keep the same contract."""
    node: Node = request.getfixturevalue(request.param)
    return node


@pytest.fixture(scope="session")
def api(stack: Node) -> Iterator[httpx2.Client]:
    """A client of each stack, that fails where an answer is not as the OpenAPI document says."""
    with documented_client(stack) as client:
        yield client


@pytest.fixture(scope="session")
def sqlite_api(sqlite_stack: Node) -> Iterator[httpx2.Client]:
    """The same for what no engine has a part in."""
    with documented_client(sqlite_stack) as client:
        yield client


def documented_client(node: Node) -> httpx2.Client:
    """Return a client of *node* that checks every answer against the node's OpenAPI document."""
    document = httpx2.get(f"{node.url}/openapi.json").json()
    hooks = {"response": [Documented(document).check]}
    return httpx2.Client(base_url=node.url, timeout=10.0, event_hooks=hooks)
