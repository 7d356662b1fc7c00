"""Kafka: can it be reached, and does the topic keep what it is given?"""

from __future__ import annotations

from collections.abc import Mapping

from traffic_manager.cli.checkup import Findings, advice, good, problem, unused
from traffic_manager.config.settings import KafkaSettings

_TIMEOUT_S = 5.0
# A batch of 1,000 changes is 1,000 events; one event is 5 KiB at most.
_LEAST_MESSAGE_BYTES = 16_384


def look(settings: KafkaSettings) -> Findings:
    """Yield what is found."""
    if not settings.bootstrap_servers:
        yield unused("Kafka", "KAFKA_BOOTSTRAP_SERVERS is not set")
        return
    from traffic_manager.events.delivery import KafkaUnavailable
    from traffic_manager.events.kafka_examination import examine

    try:
        found = examine(settings, _TIMEOUT_S)
    except KafkaUnavailable as away:
        fix = (
            "check KAFKA_BOOTSTRAP_SERVERS and the KAFKA_S* settings; until then changes wait in the database"
        )
        yield problem("Kafka", f"cannot be used: {away}", fix)
        return
    yield good("Kafka", f"reached {settings.bootstrap_servers}")
    if not found.partitions:
        yield from _missing(settings)
        return
    yield from _copies(found.partitions, found.replicas, found.settings or {})
    if found.settings is None:
        what = "its settings may not be read, so they were not looked at"
        yield advice("topic", what, "give the ACL DescribeConfigs on the topic, or look at them by hand")
    else:
        yield from _settings(found.settings)


def _missing(settings: KafkaSettings) -> Findings:
    name = settings.route_events_topic
    if settings.create_topic:
        yield good("topic", f"there is no {name} yet; the relay makes it")
    else:
        yield problem(
            "topic", f"there is no {name}, and KAFKA_CREATE_TOPIC is false", "create it: docs/events.md"
        )


def _copies(partitions: int, replicas: int, found: Mapping[str, str]) -> Findings:
    shown = f"{partitions} partitions, {replicas} replicas"
    in_sync = int(found.get("min.insync.replicas", "1"))
    if replicas < 2:
        what = f"{shown}: events are lost with one broker's disk"
        yield advice("topic", what, "in production make it with 3 replicas and min.insync.replicas=2")
    elif in_sync >= replicas:
        what = f"{shown}, min.insync.replicas={in_sync}: nothing can be sent while one broker is away"
        yield problem("topic", what, f"set min.insync.replicas={replicas - 1}")
    elif in_sync < 2:
        what = f"{shown}, min.insync.replicas=1: an acknowledged event may be on one broker only"
        yield advice("topic", what, "set min.insync.replicas=2")
    else:
        yield good("topic", f"{shown}, min.insync.replicas={in_sync}")


def _settings(found: Mapping[str, str]) -> Findings:
    if found.get("unclean.leader.election.enable") == "true":
        what = "unclean.leader.election.enable: a broker that lags may become leader, and drop events"
        yield problem("topic", what, "set unclean.leader.election.enable=false")
    if "compact" in found.get("cleanup.policy", ""):
        what = "cleanup.policy=compact: what it keeps of a route may be a duplicate of an older change"
        yield problem("topic", what, "set cleanup.policy=delete: docs/events.md says why")
    elif found.get("retention.ms") != "-1":
        days = int(found.get("retention.ms", "0")) / 86_400_000
        what = f"events are dropped after {days:.0f} days"
        yield good("topic", f"{what}; a new consumer begins with the routes of the API")
    if int(found.get("max.message.bytes", _LEAST_MESSAGE_BYTES)) < _LEAST_MESSAGE_BYTES:
        what = f"max.message.bytes={found['max.message.bytes']}: events with long URLs are refused"
        yield problem("topic", what, f"set max.message.bytes to {_LEAST_MESSAGE_BYTES} or more")
