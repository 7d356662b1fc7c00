"""Faults of Kafka and of the outbox, F30 to F37."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.faults.acts import again_and_again, seconds_until
from tests.faults.criteria import nodes_stay_ready, nothing_fails
from tests.faults.evidence import Evidence
from tests.faults.machine import age_s
from tests.faults.resources import used_by
from tests.faults.scenario import Criterion, Scenario, balanced
from tests.faults.stand import KNOWN, NODES, WORKERS, Stand
from tests.node import workers_of
from tests.promises.caller import Caller
from tests.promises.crew import new_url

# Of the table: a relay sends at most a slice again after it has died, and a dead one's lease passes on.
_BATCH = 500
_TAKEOVER_S = 15.0
_DRAINED_S = 60.0
_MORE_MEMORY_KIB = 32 * 1024
_OTHERS_LAG_S = 5.0
_POISONED = 3
_CRASH_POINTS = (
    "write.before_commit",
    "write.after_commit",
    "relay.before_send",
    "relay.after_send",
    "relay.before_checkpoint",
    "relay.after_checkpoint",
)
# Tokens are given in order, one to each holder.
_TOKEN = "select token from leases where name = 'relay'"
_HOLDER = "select holder from leases where name = 'relay' and expires_at > 0"
_WAITING = (
    """select (select max(revision) from changes) - published_revision from leases where name = 'relay'"""
)
_OLDEST_WAITING = """select extract(epoch from clock_timestamp()) - min(occurred_at) / 1e6 from changes
    where revision > (select published_revision from leases where name = 'relay')"""
# Who dies sooner is replaced later and later, as in a crash loop.
_LIVED_S = 2.0
_END_LEASE = "update leases set expires_at = 0 where name = 'relay'"


def duplicates_at_most(deaths: str, each: int = _BATCH) -> Criterion:
    """Kafka was told at most *each* events more than once for each death, measured as *deaths*."""

    def judge(evidence: Evidence) -> Sequence[str]:
        repeated = len(evidence.told) - len(set(evidence.told))
        most = int(evidence.measured[deaths]) * each
        return [f"{repeated} events came again, not {most}"] if repeated > most else []

    return judge


@contextmanager
def _frozen_and_killed(stand: Stand) -> Iterator[None]:
    """Freeze the broker again and again, then kill it."""
    kafka = stand.servers.kafka
    freezes = stand.phases.rounds(2, 10)
    for _ in range(freezes):
        kafka.freeze()
        time.sleep(2.0)
        kafka.thaw()
        time.sleep(1.0)
    kafka.kill()
    time.sleep(stand.phases.rounds(1, 45))
    kafka.start()
    stand.measured["restarts"] = freezes + 1
    yield


@contextmanager
def _crashed_everywhere(stand: Stand) -> Iterator[None]:
    """Kill who writes or relays at each place where dying is worst, in an order that nobody planned."""
    chosen = random.Random(stand.seed)
    rounds = stand.phases.rounds(12, 200)
    for number in range(rounds):
        if seconds_until(lambda: _have_lived(stand), _TAKEOVER_S) >= _TAKEOVER_S:
            stand.findings.append("a worker is missing")
        _crash(stand, chosen.choice(_CRASH_POINTS) if number >= len(_CRASH_POINTS) else _CRASH_POINTS[number])
        # The lease of the dead would last for ten seconds more, in each round.
        stand.ask_database(_END_LEASE)
    dead = stand.ask_database(_TOKEN)
    _crash(stand, "relay.before_send")
    took_s = seconds_until(lambda: stand.ask_database(_TOKEN) != dead, _TAKEOVER_S)
    if took_s >= _TAKEOVER_S:
        stand.findings.append(f"nobody has taken over the relay in {took_s:.1f} s")
    stand.measured["crashes"] = rounds + 1
    yield


def _have_lived(stand: Stand) -> bool:
    """Return whether all workers are there, and none is new."""
    ages_s = [age_s(pid) for node in stand.nodes for pid in workers_of(node)]
    return len(ages_s) == NODES * WORKERS and min(ages_s) > _LIVED_S


def _crash(stand: Stand, point: str) -> None:
    file = stand.failpoints / point
    file.write_text("kill")
    if seconds_until(lambda: not file.exists(), _TAKEOVER_S) >= _TAKEOVER_S:
        stand.findings.append(f"nobody came to {point}")
        file.unlink(missing_ok=True)


@contextmanager
def _away_for_long(stand: Stand) -> Iterator[None]:
    """Take Kafka away, start a node without it, and let changes pile up; all are sent soon after it is back."""
    kafka, node = stand.servers.kafka, stand.nodes[0]
    kafka.kill()
    node.stop()
    node.start()
    pile_up(stand, stand.phases.rounds(2, 10))
    before = used_by(stand)
    yield
    kafka.start()
    took_s = seconds_until(lambda: _waiting(stand) == 0, _DRAINED_S)
    if took_s >= _DRAINED_S:
        stand.findings.append(f"after {took_s:.0f} s {_waiting(stand)} changes wait still")
    more_kib = used_by(stand).memory_kib - before.memory_kib
    if more_kib > _MORE_MEMORY_KIB:
        stand.findings.append(f"the nodes took {more_kib} KiB more")


def pile_up(stand: Stand, thousands: int) -> None:
    """Make so many thousand changes, in batches."""
    caller = Caller(stand.nodes[0], stand.ledger)
    for _ in range(thousands):
        answer = caller.batch(
            [{"operation": "put", **key._asdict(), "url": new_url()} for key in KNOWN[:1000]]
        )
        if answer is None or answer.status != 200:
            stand.findings.append("a batch was not taken")


def _waiting(stand: Stand) -> int:
    return int(stand.ask_database(_WAITING))


@contextmanager
def _without_enough_replicas(stand: Stand) -> Iterator[None]:
    """Have the topic want more replicas than there are."""
    stand.servers.kafka.configure_topic(stand.topic.name, "min.insync.replicas", "2")
    yield
    stand.servers.kafka.configure_topic(stand.topic.name, "min.insync.replicas", "1")


@contextmanager
def _poison_events(stand: Stand) -> Iterator[None]:
    """Change routes to URLs that are too long for the topic; others get through. Then send those again."""
    stand.servers.kafka.configure_topic(stand.topic.name, "max.message.bytes", "1200")
    caller = Caller(stand.nodes[0], stand.ledger)
    chosen = random.Random(stand.seed)
    for key in KNOWN[-_POISONED:]:
        # Of no order that compression could make shorter.
        caller.put(key, f"{new_url()}/{chosen.randbytes(800).hex()}")
    if seconds_until(lambda: _set_aside(stand) == _POISONED, _TAKEOVER_S) >= _TAKEOVER_S:
        stand.findings.append(f"{_set_aside(stand)} events were set aside, not {_POISONED}")
    yield
    waited_s = float(stand.ask_database(_OLDEST_WAITING) or 0)
    if waited_s > _OTHERS_LAG_S:
        stand.findings.append(f"an event of another route waits since {waited_s:.1f} s")
    stand.servers.kafka.configure_topic(stand.topic.name, "max.message.bytes", "1000000")
    first = stand.ask_database("select min(revision) from events_set_aside")
    command = [sys.executable, "-m", "traffic_manager.cli", "relay", "replay", "--from", first]
    replay = subprocess.run(
        command, cwd=stand.nodes[0].folder, env=stand.nodes[0].environment, capture_output=True, check=False
    )
    if replay.returncode != 0 or _set_aside(stand):
        stand.findings.append(f"the replay ended with {replay.returncode}: {replay.stdout!r}")


def _set_aside(stand: Stand) -> int:
    return int(stand.ask_database("select count(*) from events_set_aside"))


@contextmanager
def _two_relays(stand: Stand) -> Iterator[None]:
    relays = [stand.until_the_end.enter_context(_a_relay(stand)) for _ in range(2)]
    seconds_until(lambda: _holder(stand) in {relay.pid for relay in relays}, _TAKEOVER_S)
    yield


@contextmanager
def _zombie(stand: Stand) -> Iterator[None]:
    """Freeze the relay that leads for longer than its lease lasts; let it go on when another leads."""
    for _ in range(stand.phases.rounds(1, 2)):
        _freeze_and_thaw(stand, _holder(stand))
    yield


def _freeze_and_thaw(stand: Stand, leader: int) -> None:
    os.kill(leader, signal.SIGSTOP)
    took_s = seconds_until(lambda: _holder(stand) != leader, _TAKEOVER_S)
    if took_s >= _TAKEOVER_S:
        stand.findings.append(f"nobody has taken over the relay in {took_s:.1f} s")
    time.sleep(2.0)
    os.kill(leader, signal.SIGCONT)
    time.sleep(3.0)


@contextmanager
def _a_relay(stand: Stand) -> Iterator[subprocess.Popen[bytes]]:
    """Run `traffic-manager relay`."""
    node = stand.nodes[0]
    command = [sys.executable, "-m", "traffic_manager.cli", "relay"]
    process = subprocess.Popen(command, cwd=node.folder, env={**node.environment, "RELAY": "embedded"})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def _holder(stand: Stand) -> int:
    """Return the process that holds the relay's lease, 0 for none."""
    return int(stand.ask_database(_HOLDER).rpartition(":")[2] or 0)


@contextmanager
def _checkpoints_watched(stand: Stand) -> Iterator[None]:
    """See that the checkpoint never goes back while a zombie comes back."""
    seen: list[int] = []
    with again_and_again(lambda: _see_checkpoint(stand, seen), 0.1), _zombie(stand):
        yield
    if seen != sorted(seen):
        stand.findings.append("the checkpoint went back")


def _see_checkpoint(stand: Stand, seen: list[int]) -> bool:
    seen.append(int(stand.ask_database("select published_revision from leases where name = 'relay'") or 0))
    return True


SCENARIOS = [
    Scenario(
        "F31",
        "Kafka frozen again and again, then killed",
        _frozen_and_killed,
        (nothing_fails, nodes_stay_ready, duplicates_at_most("restarts")),
        is_momentary=True,
    ),
    Scenario(
        "F34",
        "writers and relays killed at each crash point",
        _crashed_everywhere,
        (duplicates_at_most("crashes"),),
        is_momentary=True,
        kills_our_own=True,
    ),
    Scenario(
        "F30",
        "Kafka away for long, also when a node starts",
        _away_for_long,
        (nothing_fails,),
        ({"DRAIN_SECONDS": "1"}, {}),
        balanced,
        kills_our_own=True,
    ),
    Scenario(
        "F32",
        "Kafka without enough replicas",
        _without_enough_replicas,
        (nothing_fails, nodes_stay_ready),
    ),
    Scenario(
        "F33",
        "events that Kafka refuses for good",
        _poison_events,
        (nothing_fails, nodes_stay_ready),
    ),
    Scenario(
        "F35",
        "a relay frozen for longer than its lease",
        _checkpoints_watched,
        (nothing_fails, nodes_stay_ready),
        ({"RELAY": "off"},) * NODES,
        beside=_two_relays,
        is_momentary=True,
    ),
]
