"""Sends the outbox to Kafka: in order per route, at least once, by one process at a time.

`main` runs it as a thread of the server (`RELAY=embedded`) or of `traffic-manager relay`. Who has the lease
relays; the others try to get it about once a second. The thread goes round in short turns, and looks at the
lease, at the stop signal and at Kafka's answers in each; nothing but a database call takes it longer than
0.1 s.

The checkpoint moves only over acknowledged events. After a crash the next one sends again what lies between.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from traffic_manager.errors import TrafficManagerError
from traffic_manager.events.audience import Audience
from traffic_manager.events.delivery import EventProducer, KafkaUnavailable
from traffic_manager.events.reader import ChangeLog, ChangeReader, HistoryForked
from traffic_manager.events.retelling import Retelling
from traffic_manager.events.shift import PATIENCE_S, Shift
from traffic_manager.events.tenure import TTL_S, LeaseLost, Tenure
from traffic_manager.events.trouble import Trouble
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.spans import Record
from traffic_manager.routing.leases import RELAY_LEASE, Leases
from traffic_manager.routing.ports import Head

# How long a released lease lies about at most.
_CANDIDATE_S = (0.4, 0.9)
# Out of the way of the others, who may reach Kafka or not have our bug.
_STAND_BACK_S = (2.0, 4.0)
_FORKED_S = 1.0
_FINISH_S = 3.0

log = structlog.get_logger(__name__)


class Relay:
    """Relays on a thread of its own. *feed*, the producers that *connect* makes and what *retell* makes are for that
    thread alone. *holder* names this process in the lease, for people. *clock* counts seconds and never jumps.
    *record*: see `Shift`."""

    def __init__(
        self,
        leases: Leases,
        feed: ChangeLog,
        connect: Callable[[], EventProducer],
        retell: Callable[[Head], Retelling],
        metrics: Metrics,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
        record: Record | None = None,
    ) -> None:
        self._record = record
        self._leases = leases
        self._reader = ChangeReader(feed)
        self._connect = connect
        self._retell = retell
        self._metrics = metrics
        self._holder = holder
        self._clock = clock
        self._database = Trouble("database", clock)
        self._kafka = Trouble("kafka", clock)
        self._shift: Shift | None = None
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._finish_by = 0.0
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin to relay or to wait for the lease. After any fork: a thread stays behind in the parent."""
        self._thread.start()

    def wake(self, _revision: int = 0) -> None:
        """Look for changes now, because there is one. From any thread; worth nothing to one without lease."""
        self._woken.set()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Finish what is in flight, move the checkpoint, release the lease and end the thread. Return False
        if that took longer than *timeout_s*; the lease then runs out. Not from a signal handler."""
        self._finish_by = self._clock() + min(_FINISH_S, timeout_s / 2)
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause_s = self._turn()
            is_idle = self._shift is not None and self._shift.is_idle
            (self._woken if is_idle else self._stopping).wait(pause_s)
            # Before the next look at the log, so that no wake after it is lost.
            self._woken.clear()
        self._finish()

    def _turn(self) -> float:
        """Do one step and return how many seconds to wait then. Never raises: this thread must not end."""
        try:
            return self._step()
        except Exception:
            log.exception("relay_failed")
            return self._leave(_STAND_BACK_S, "an error that nobody expected")

    def _step(self) -> float:
        try:
            return self._shift.step() if self._shift else self._campaign()
        except LeaseLost as lost:
            return self._leave(_CANDIDATE_S, str(lost))
        except HistoryForked as fork:
            return self._begin_again(fork)
        except KafkaUnavailable as away:
            return self._wait_for_kafka(away)
        except TrafficManagerError as away:
            return self._database.met(type(away).__name__, str(away))

    def _campaign(self) -> float:
        """Try to get the lease."""
        began = self._clock()
        lease = self._leases.acquire(RELAY_LEASE, self._holder, TTL_S)
        self._database.over()
        if lease is None:
            return _between(_CANDIDATE_S)
        tenure = Tenure(self._leases, lease, self._clock, began)
        audience = Audience(tenure, self._retell, self._metrics)
        troubles = self._database, self._kafka
        self._shift = Shift(
            tenure, self._reader, self._connect, self._metrics, *troubles, self._clock, audience, self._record
        )
        self._metrics.tm_relay_is_leader.set(1)
        log.info("relay_leads", token=lease.token, published=lease.published_revision)
        return 0.0

    def _leave(self, pause_s: tuple[float, float], reason: str) -> float:
        """End the shift; return how many seconds to wait before the next."""
        if self._shift:
            self._shift.close()
            log.info("relay_stands_back", reason=reason)
        self._shift = None
        self._metrics.tm_relay_is_leader.set(0)
        return _between(pause_s)

    def _begin_again(self, fork: HistoryForked) -> float:
        if fork.is_news:
            log.error("history_fork", published=fork.position, head=str(fork.found.position))
        if self._shift:
            self._shift.begin_again()
        return _FORKED_S

    def _wait_for_kafka(self, away: KafkaUnavailable) -> float:
        """Go on with a new producer, or let another process try when ours have failed for long."""
        pause_s = self._kafka.met(away.kind, away.reason)
        if self._shift is None:
            return pause_s
        self._shift.replace_producer()
        failing_since = max(self._shift.began, self._kafka.since or 0)
        if self._clock() - failing_since > PATIENCE_S:
            return self._leave(_STAND_BACK_S, "Kafka cannot be reached from here")
        return pause_s

    def _finish(self) -> None:
        if self._shift is None:
            return
        try:
            self._shift.finish(self._finish_by)
        except Exception as error:  # then the next one sends again what we could not mark as sent
            log.warning("relay_stopped_early", reason=str(error))
        self._leave(_CANDIDATE_S, "the server stops")


def _between(bounds: tuple[float, float]) -> float:
    return random.uniform(*bounds)  # noqa: S311 not a secret
