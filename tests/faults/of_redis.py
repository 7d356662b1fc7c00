"""Faults of Redis, F20 to F27."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis

from tests.faults.acts import again_and_again, counted, troubled
from tests.faults.criteria import (
    known_routes_answer,
    nodes_stay_ready,
    nothing_fails,
    p99_holds,
    p99_in_the_first_second,
)
from tests.faults.evidence import Evidence
from tests.faults.proxy import Trouble
from tests.faults.scenario import Scenario
from tests.faults.stand import KNOWN, Stand
from tests.promises.caller import Caller
from tests.promises.crew import new_url
from tests.promises.ledger import Kind
from tests.promises.places import frozen, killed
from traffic_manager.cache.route_cache import SCHEMA

# One node holds no route and one a quarter of them: else nobody would ask Redis.
ASKING_REDIS = ({"MIRROR_MAX_ROUTES": "0"}, {"MIRROR_MAX_ROUTES": "500"})
UNNOTICED = (nothing_fails, known_routes_answer(1.0), p99_holds, nodes_stay_ready)
# Longer than any run, so that only a change makes an entry old.
_FOR_LONG = {"CACHE_POSITIVE_TTL": "3600", "CACHE_NEGATIVE_TTL": "3600"}
_FLUSH_EVERY_S = 2.0
_BATCH = 500
_REFUSING_S = 1.5


@contextmanager
def _flushed_again_and_again(stand: Stand) -> Iterator[None]:
    with (
        counted(stand, 0, "resolve_cache_miss_total"),
        counted(stand, 1, "resolve_cache_miss_total"),
        again_and_again(lambda: _flush(stand), _FLUSH_EVERY_S),
    ):
        yield


def _flush(stand: Stand) -> bool:
    stand.servers.redis.flushall()
    stand.measured[f"flushed/{len(stand.measured)}"] = time.monotonic()
    return True


def _one_look_up_a_miss(evidence: Evidence) -> Sequence[str]:
    """The database is asked at most twice for each key that a flush has made a node forget."""
    flushes = evidence.series("flushed")
    looked_up = sum(
        value for name, value in evidence.measured.items() if name.startswith("resolve_cache_miss")
    )
    missing = {
        (
            read.connection.partition("/")[0],
            str(read.key),
            sum(at_s <= read.began_ns / 1e9 for at_s in flushes),
        )
        for read in evidence.ledger.reads
        if read.ended_ns >= evidence.times.breaks_ns
    }
    strong = len(evidence.since_broken(Kind.STRONG))
    most = 2 * len(missing) + strong
    return [f"{looked_up:.0f} look-ups for {len(missing)} missing keys"] if looked_up > most else []


@contextmanager
def _poisoned(stand: Stand) -> Iterator[None]:
    """Write entries of all wrong kinds into our keys, all the time."""
    chosen = random.Random(1)
    with (
        Redis(stand.servers.redis.host, stand.servers.redis.port) as redis,
        counted(stand, 0, "tm_cache_rejected_total"),
        counted(stand, 1, "tm_cache_rejected_total"),
        again_and_again(lambda: _poison(redis, chosen), 0.05),
    ):
        yield


def _poison(redis: Redis, chosen: random.Random) -> bool:
    """Exchange the entries of some keys."""
    for key in chosen.sample(KNOWN[:300], k=25):
        name = f"tm:{SCHEMA}:{key}"
        entry = redis.get(name) if redis.type(name) == b"string" else None
        hostile = _hostile(entry if isinstance(entry, bytes) else b"[]", chosen)
        redis.delete(name)
        if isinstance(hostile, list):
            redis.rpush(name, *hostile)
        else:
            redis.set(name, hostile, ex=60)
    return True


def _hostile(entry: bytes, chosen: random.Random) -> bytes | list[str]:
    """Return something that must not be believed, made of a right *entry*."""
    kinds: list[bytes | list[str]] = [
        ["a", "list"],
        entry[: len(entry) // 2],
        b"",
        b"\xff\xfe not ours",
        b"x" * 200_000,
        b"[" * 5000,
        json.dumps(
            [SCHEMA, "another epoch", str(KNOWN[0]), 10**9, 10**9, "https://evil.example.com/"]
        ).encode(),
        json.dumps({"url": "https://evil.example.com/"}).encode(),
        entry.replace(b"/service-", b"/other-"),
        entry.replace(b"payments", b"evil"),
    ]
    return chosen.choice(kinds)


def _hostile_entries_are_counted(evidence: Evidence) -> Sequence[str]:
    counted_ = sum(value for name, value in evidence.measured.items() if name.startswith("tm_cache_rejected"))
    return [] if counted_ > 0 else ["no hostile entry was counted: were any read?"]


@contextmanager
def _restarted_from_an_old_dump(stand: Stand) -> Iterator[None]:
    """Bring back entries that were right a thousand changes ago."""
    redis = stand.servers.redis
    with Redis(redis.host, redis.port) as client:
        client.save()
    caller = Caller(stand.nodes[0], stand.ledger)
    for start in range(0, stand.phases.rounds(1, 2) * _BATCH, _BATCH):
        caller.batch(
            [{"operation": "put", **key._asdict(), "url": new_url()} for key in KNOWN[start:][:_BATCH]]
        )
    redis.kill()
    redis.start()
    yield


@contextmanager
def _refusing(stand: Stand) -> Iterator[None]:
    """Have Redis refuse in all the ways that it knows, one after another, again and again."""
    server = stand.servers.redis
    with Redis(server.host, server.port) as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("replica-serve-stale-data", "no")
        for _ in range(stand.phases.rounds(1, 3)):
            redis.replicaof("127.0.0.1", "1")  # READONLY and MASTERDOWN
            time.sleep(_REFUSING_S)
            redis.replicaof("NO", "ONE")
            redis.config_set("maxmemory", "1mb")  # OOM
            time.sleep(_REFUSING_S)
            redis.config_set("maxmemory", "0")
            redis.config_set("requirepass", "another")  # NOAUTH
            time.sleep(_REFUSING_S)
            redis.config_set("requirepass", "")
        yield


@contextmanager
def _evicting(stand: Stand) -> Iterator[None]:
    """Give Redis room for a few entries only."""
    with Redis(stand.servers.redis.host, stand.servers.redis.port) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        used = redis.info("memory")["used_memory"]
        redis.config_set("maxmemory", int(used * 0.9))
        try:
            yield
            if not redis.info("stats")["evicted_keys"]:
                stand.findings.append("nothing was evicted")
        finally:
            redis.config_set("maxmemory", "0")


SCENARIOS = [
    Scenario(
        "F20",
        "Redis killed",
        lambda stand: killed(stand.servers.redis),
        UNNOTICED,
        ASKING_REDIS,
    ),
    Scenario(
        "F21",
        "Redis frozen",
        lambda stand: frozen(stand.servers.redis),
        (nothing_fails, p99_in_the_first_second(0.030), nodes_stay_ready),
        ASKING_REDIS,
    ),
    Scenario(
        "F22",
        "Redis 20 ms away",
        lambda stand: troubled(stand.proxies["redis"], Trouble(latency_s=0.020)),
        (nothing_fails, known_routes_answer(1.0), nodes_stay_ready),
        ASKING_REDIS,
        proxied=("redis",),
    ),
    Scenario(
        "F22/200ms",
        "Redis 200 ms away",
        lambda stand: troubled(stand.proxies["redis"], Trouble(latency_s=0.200)),
        UNNOTICED,
        ASKING_REDIS,
        proxied=("redis",),
    ),
    Scenario(
        "F23",
        "Redis emptied again and again",
        _flushed_again_and_again,
        (*UNNOTICED, _one_look_up_a_miss),
        ASKING_REDIS,
    ),
    Scenario(
        "F24",
        "Redis poisoned",
        _poisoned,
        (nothing_fails, nodes_stay_ready, _hostile_entries_are_counted),
        [{**node, "AUTH_PEPPER": "a pepper of at least thirty-two characters"} for node in ASKING_REDIS],
    ),
    Scenario(
        "F25",
        "Redis restarted from an old dump",
        _restarted_from_an_old_dump,
        (nothing_fails, nodes_stay_ready),
        [{**node, **_FOR_LONG} for node in ASKING_REDIS],
    ),
    Scenario(
        "F26",
        "Redis refuses: a replica, full, with a password",
        _refusing,
        (nothing_fails, known_routes_answer(1.0), nodes_stay_ready),
        ASKING_REDIS,
        is_momentary=True,
    ),
    Scenario(
        "F27",
        "Redis has room for a few entries only",
        _evicting,
        UNNOTICED,
        ASKING_REDIS,
    ),
]
