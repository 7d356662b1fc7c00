"""How often the log must be polled: seldom while every change is announced by a hint, often otherwise.

A writer hints after its commit, and whoever listens polls at once. Hints can be lost without a trace: a
transaction pooler takes the listening to another connection, a writer of another version sends none. So polling
alone must always be enough, and hints are trusted only while they prove themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

# Below P4's 200 ms, whatever happens to hints.
POLL_S = 0.05
# Half of what an unflagged answer may be behind: one poll may fail.
POLL_HINTED_S = 0.5
# A poll may see a change before its hint comes, but not by this much.
_GRACE_S = 1.0
# After a lost hint nothing is trusted for so long; each further time twice as long, for such a change is late.
_DOUBT_FIRST_S = 60.0
_DOUBT_MOST_S = 3600.0
_PROBE_EVERY_S = 60.0


@dataclass
class Hints:
    """Keeps account of hints. *turned* is called with whether they are trusted now, when that changes."""

    turned: Callable[[bool], None]
    clock: Callable[[], float] = monotonic
    are_trusted: bool = False
    _missed: int | None = field(default=None, init=False)
    _missed_until: float = field(default=0.0, init=False)
    _doubt_s: float = field(default=_DOUBT_FIRST_S, init=False)
    _doubted_until: float = field(default=0.0, init=False)
    _probe_at: float = field(default=0.0, init=False)

    @property
    def poll_s(self) -> float:
        """How long a poll may wait for a hint."""
        return POLL_HINTED_S if self.are_trusted else POLL_S

    def heard(self, revisions: Sequence[int]) -> None:
        """Take note of hints, by the revisions that they name."""
        if self._missed in revisions:
            self._missed = None
        if revisions and not self.are_trusted and self.clock() >= self._doubted_until:
            self._turn(True)

    def found(self, revision: int) -> None:
        """Take note that a poll came upon the head *revision* before any hint: one must follow. A head is where
        a commit ended, so exactly one hint names it."""
        if self.are_trusted and self._missed is None:
            self._missed, self._missed_until = revision, self.clock() + _GRACE_S

    def check(self) -> bool:
        """Return False, and doubt hints for a while, if one that had to come did not."""
        if self._missed is None or self.clock() < self._missed_until:
            return True
        self._missed = None
        self._doubted_until = self.clock() + self._doubt_s
        self._doubt_s = min(_DOUBT_MOST_S, 2 * self._doubt_s)
        self._turn(False)
        return False

    def is_probe_due(self) -> bool:
        """Return whether to send a hint of our own, to learn if hints come through; True once in a while."""
        now = self.clock()
        if self.are_trusted or now < max(self._probe_at, self._doubted_until):
            return False
        self._probe_at = now + _PROBE_EVERY_S
        return True

    def _turn(self, are_trusted: bool) -> None:
        self.are_trusted = are_trusted
        self.turned(are_trusted)
