"""A topic that is changed and made again under the relay, F36."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from confluent_kafka import KafkaException

from tests.faults.acts import seconds_until
from tests.faults.criteria import nodes_stay_ready, nothing_fails
from tests.faults.scenario import Scenario
from tests.faults.stand import Stand
from tests.promises import history
from tests.promises.topic import Told, event_of, newest_only

_TOLD_AGAIN_S = 30.0
_GROWN = 8


@contextmanager
def _topic_made_again(stand: Stand) -> Iterator[None]:
    """Give the topic more partitions, then delete it and make it again; send all events to it by command."""
    kafka, topic = stand.servers.kafka, stand.topic
    kafka.grow_topic(topic.name, _GROWN)
    _see_alarm(stand, "other-partitions")
    kafka.delete_topic(topic.name)
    with suppress(KafkaException):  # the relay may have been quicker
        kafka.create_topic(topic.name)
    yield
    _see_alarm(stand, "other-topic")
    _replay(stand)


def _replay(stand: Stand) -> None:
    """Send all events again by command, and see that the new topic has them all."""
    topic, node = stand.topic, stand.nodes[0]
    topic.begin_again()
    wanted = [event_of(change) for change in history.of_postgres(stand.conninfo).changes]
    command = [sys.executable, "-m", "traffic_manager.cli", "relay", "replay", "--from", "1"]
    done = subprocess.run(command, cwd=node.folder, env=node.environment, capture_output=True, check=False)
    if done.returncode != 0:
        stand.findings.append(f"the replay ended with {done.returncode}: {done.stderr!r}")
    if seconds_until(lambda: set(wanted) <= set(topic.read()), _TOLD_AGAIN_S) >= _TOLD_AGAIN_S:
        stand.findings.append(f"{len(set(wanted) - set(topic.events))} events were not sent again")
    _see_state(stand, wanted)
    # What is sent again comes after newer events, where consumers drop it. From here on order counts again.
    topic.events[:] = sorted(set(topic.events), key=lambda told: told.revision)


def _see_state(stand: Stand, wanted: Sequence[Told]) -> None:
    """See that who reads the new topic by the rule ends up with what there is."""
    right = {event.key: event for event in newest_only(wanted)}
    kept = {event.key: event for event in newest_only(stand.topic.events)}
    wrong = [key for key, event in right.items() if key not in kept or kept[key].revision < event.revision]
    if wrong:
        stand.findings.append(f"consumers have another state of {len(wrong)} routes, such as {wrong[0]}")


def _see_alarm(stand: Stand, reason: str) -> None:
    """See that some node says within half a minute that the topic is another."""

    def is_told() -> bool:
        return any(f'"reason":"{reason}"' in node.log() for node in stand.nodes)

    if seconds_until(is_told, _TOLD_AGAIN_S) >= _TOLD_AGAIN_S:
        stand.findings.append(f"nobody says that the topic is another: {reason}")


SCENARIOS = [
    Scenario(
        "F36",
        "topic with more partitions, then made again",
        _topic_made_again,
        (nothing_fails, nodes_stay_ready),
    ),
]
