"""Reads changes from the log in slices and makes events of them; notices when the history has forked.

Every slice is followed by a look at the head. Only if epoch and chain are still those of before does the
slice belong to the history whose epoch its events carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from traffic_manager.errors import TrafficManagerError
from traffic_manager.events.envelope import event_of
from traffic_manager.events.waves import Outgoing, Waves
from traffic_manager.routing.model import Change, Trace
from traffic_manager.routing.ports import Head, Pulse, Slice

# A slice holds whole batches, so this must not be less than the largest batch (1,000 operations). It bounds
# what is sent twice after a crash.
SLICE_CHANGES = 1000


class ChangeLog(Protocol):
    """What the relay needs of a `ChangeFeed`."""

    def pulse(self, at: int) -> Pulse:
        """Return the head and the digest at revision *at*."""

    def slice(self, after: int, limit: int) -> Slice | None:
        """Return the changes after *after*, about *limit*; None if there are none."""

    def close(self) -> None:
        """Give the connection back; the next call opens another."""


class HistoryForked(TrafficManagerError):
    """The database now has another past than the one that we published. Stays inside this room."""

    def __init__(self, position: int, found: Head, *, is_news: bool) -> None:
        super().__init__(f"the history of revision {position} is gone, the head is {found.position}")
        self.position = position
        self.found = found
        self.is_news = is_news


class ChangeReader:
    """Reads the log from one position on. Before the first read, and after HistoryForked, it must `begin`."""

    def __init__(self, feed: ChangeLog) -> None:
        self._feed = feed
        self._head = Head("", 0, 0)
        self._position = 0
        self._chain: bytes | None = None
        self._forked_epoch: str | None = None
        self.has_begun = False

    @property
    def head(self) -> Head:
        """The head as it was last seen."""
        return self._head

    @property
    def position(self) -> int:
        """The revision up to which the log was read."""
        return self._position

    def begin(self, published: int) -> int:
        """Read on after *published*, after the head if that is lower, or after what is no longer kept if that is
        higher, and return which. Raises
        HistoryForked as long as the epoch is one whose history changed under us: its revisions mean two
        things, and consumers would drop the second. A restore or a failover with losses needs a new epoch."""
        pulse = self._feed.pulse(published)
        if pulse.head.epoch == self._forked_epoch:
            raise HistoryForked(published, pulse.head, is_news=False)
        self._head = pulse.head
        self._position = min(max(published, pulse.compacted_revision), pulse.head.revision)
        self._chain = pulse.chain if self._position == published else None
        self._forked_epoch = None
        self.has_begun = True
        return self._position

    def forget(self) -> None:
        """Give the position up, and the connection back."""
        self.has_begun = False
        self._feed.close()

    def read(self) -> Waves | None:
        """Return the events of the next slice (none in it, if all its changes are of other kinds), or None
        at the head. Raises HistoryForked."""
        if self._head.revision <= self._position:
            self._look()
        if self._head.revision <= self._position:
            return None
        found = self._feed.slice(self._position, SLICE_CHANGES)
        self._look()
        if found is None:
            raise RuntimeError(
                f"no whole batch follows revision {self._position}: is one over {SLICE_CHANGES}?"
            )
        self._position, self._chain = found.upto, found.chain
        return Waves((self._outgoing(change, found.traces) for change in found.changes), found.upto)

    def _look(self) -> None:
        """Learn the head. Raises HistoryForked if what we read and published is not its past."""
        pulse = self._feed.pulse(self._position)
        known, self._head = self._head, pulse.head
        if pulse.head.epoch != known.epoch or self._is_other_past(pulse):
            self._forked_epoch = known.epoch
            self.forget()
            raise HistoryForked(self._position, pulse.head, is_news=True)
        self._chain = pulse.chain or self._chain

    def _is_other_past(self, pulse: Pulse) -> bool:
        """Return whether the log ends before our position, or came there by other changes. A digest is None
        where the changes are no longer kept."""
        is_other_chain = None not in (pulse.chain, self._chain) and pulse.chain != self._chain
        return pulse.head.revision < self._position or is_other_chain

    def _outgoing(self, change: Change, traces: Mapping[int, Trace]) -> Outgoing:
        trace = traces.get(change.revision)
        event = event_of(change, self._head.epoch, self._head.epoch_number, trace)
        return Outgoing(change.revision, change.action, event, trace)
