"""Changes that are forgotten before somebody has read them, F37."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.db.engines import postgres_settings_of
from tests.faults.acts import seconds_until
from tests.faults.criteria import known_routes_answer
from tests.faults.of_kafka import pile_up
from tests.faults.scenario import Scenario, balanced
from tests.faults.stand import Stand
from tests.promises import history
from tests.promises.caller import Caller
from traffic_manager.db.pool import Counters, open_database
from traffic_manager.db.retention import compact

_PUBLISHED_S = 20.0
_MARGIN_US = 1_000_000
_OLD = 1


@contextmanager
def _frozen_while_the_log_is_compacted(stand: Stand) -> Iterator[None]:
    """Halt a node, forget the changes that it would go on with, and let it go on."""
    node = stand.nodes[1]
    os.killpg(node.pid, signal.SIGSTOP)
    frozen_at = int(stand.ask_database("select max(revision) from changes"))
    try:
        pile_up(stand, 2)
        yield
        _compact_beyond(stand, frozen_at + 2000)
    finally:
        os.killpg(node.pid, signal.SIGCONT)
    _see_that_readers_are_told(stand)


def _compact_beyond(stand: Stand, revision: int) -> None:
    """Forget changes up to *revision* at least, and put them aside for the oracle."""
    seconds_until(lambda: _number(stand, "published_revision from leases") >= revision, _PUBLISHED_S)
    now_us = _number(stand, "(extract(epoch from clock_timestamp()) * 1000000)::bigint")
    stand.forgotten.append(history.of_postgres(stand.conninfo))
    database = open_database(postgres_settings_of(dict(stand.database)), Counters())
    database.open()
    # What was being committed while we read is not forgotten.
    done = compact(database, now_us - _MARGIN_US, kept=1)
    database.close()
    if done.compacted_revision < revision:
        stand.findings.append(f"changes were forgotten up to {done.compacted_revision}, not {revision}")


def _number(stand: Stand, what: str) -> int:
    return int(stand.ask_database(f"select {what}") or 0)


def _see_that_readers_are_told(stand: Stand) -> None:
    """See that who wants to go on from a change that is forgotten gets 410 and the head, from every node."""
    for index, node in enumerate(stand.nodes):
        answer = Caller(node).ask("GET", f"/api/v1/changes?after={_OLD}")
        if answer.status != 410 or not answer.json.get("head"):
            stand.findings.append(f"node {index} answered {answer.status} to a reader of forgotten changes")


SCENARIOS = [
    Scenario(
        "F37",
        "changes forgotten before a node has read them",
        _frozen_while_the_log_is_compacted,
        (known_routes_answer(0.95),),
        shape=balanced,
        kills_our_own=True,
    ),
]
