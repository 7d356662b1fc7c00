"""What has happened, and so what every answer must be in the moment it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.model.databases import Database
from tests.model.history import Branch, Fact, History, Place, Planned
from tests.model.worker import Worker
from traffic_manager.errors import EpochMismatch, NotYetReached, TrafficManagerError
from traffic_manager.routing.follower import FRESH_S
from traffic_manager.routing.model import Change, Position, RouteKey
from traffic_manager.routing.ports import Entry, NameFilter


@dataclass(frozen=True)
class Asked:
    """How a read was asked for, and where everything stood then. *cuts*: how often the line had been cut."""

    head: Place
    at_s: float
    cuts: int
    is_strong: bool = False
    token: Position | None = None


class Truth:
    """The history of *database*, when it stood where by *now_s*, and what has been compacted of it."""

    def __init__(self, database: Database, now_s: Callable[[], float]) -> None:
        self._database = database
        self._now_s = now_s
        self.history = History(database.store.look_up([]).head.epoch8)
        self.heads: list[tuple[float, Place]] = [(0.0, (0, 0))]
        self.compacted = 0

    def record(self, planned: Sequence[Planned]) -> None:
        """Take over into the model what was written."""
        end = self.history.now.head + len(planned)
        self.history.now.log += [Fact(*change, end) for change in planned]
        self._stands()

    def turn_to(self, branch: Branch) -> None:
        """The database goes on from *branch*."""
        self.history.turn_to(branch)
        self._stands()

    def _stands(self) -> None:
        self.heads.append((self._now_s(), self.history.head))

    def notice_epoch(self, *, is_expected: bool) -> None:
        """Let the model know if another epoch was begun."""
        epoch8 = self._database.store.look_up([]).head.epoch8
        if epoch8 != self.history.now.epoch8:
            assert is_expected, "an epoch is left only after a fork"
            assert epoch8 not in {branch.epoch8 for branch in self.history.branches}
            self.turn_to(Branch(epoch8, self.history.now.log.copy()))

    def is_settled(self, worker: Worker) -> bool:
        """Return whether this worker is on the branch that the database is on, or has none yet. In the moment between
        a fork and the poll that notices it, the same revision means two things, and no order can be kept."""
        return worker.followed in (None, len(self.history.branches) - 1) and not self.history.now.is_hidden

    def has_seen_lost(self, worker: Worker) -> bool:
        """Return whether *worker* can tell that the database has gone back: to another past of its own epoch, or to
        an epoch that is no later."""
        known, now = worker.mirror.head, self.history.now
        if worker.followed is None or known is None:
            return False
        if known.epoch8 != now.epoch8:
            return known.epoch_number >= self._database.store.look_up([]).head.epoch_number
        followed = self.history.branches[worker.followed]
        return now.is_hidden and worker.mirror.applied > followed.base(now)

    def check(
        self, worker: Worker, key: RouteKey, epoch8: str, as_of: int, entry: Entry | None, asked: Asked
    ) -> None:
        """I4, I5, I10: the state at its revision, not before what was shown, not before what was asked for."""
        if not self.is_settled(worker):
            assert self.history.ever_was(key, entry), "nothing is invented"
            return
        places = list(self.history.places(epoch8, key, as_of, entry))
        assert places, "every answer is the state of its key at its revision"
        place = max(places)
        assert place >= worker.floors.get(key, (0, 0)), "no worker's answers for a key go back"
        worker.floors[key] = place
        if asked.head[0] != len(self.history.branches) - 1:
            return
        if asked.is_strong:
            assert place >= asked.head, "a strong read sees what was there when it was asked for"
        if asked.token:
            assert asked.token.epoch8 == epoch8
            assert as_of >= asked.token.revision, "a token is kept"

    def check_flag(self, worker: Worker, stale_age_s: int | None) -> None:
        """I6: what is said from memory is flagged exactly when the last good poll is longer ago than it may be."""
        age_s = None if worker.polled_at_s is None else self._now_s() - worker.polled_at_s
        assert (stale_age_s is not None) == (age_s is None or age_s > FRESH_S)
        assert stale_age_s is None or age_s is None or stale_age_s == int(age_s)

    def check_age(
        self, worker: Worker, place: tuple[str, int], stale_age_s: int | None, asked: Asked
    ) -> None:
        """I6: an answer without a flag is at most as old as it may be."""
        if stale_age_s is not None or not self.is_settled(worker):
            return
        branch, revision = self.place_at(asked.at_s - FRESH_S)
        if branch == len(self.history.branches) - 1:
            assert place >= (self.history.now.epoch8, revision), "what is older than a second is flagged"

    def place_at(self, at_s: float) -> Place:
        """Return where the database stood then."""
        return next(place for since, place in reversed(self.heads) if since < at_s or since == 0.0)

    def check_told(self, worker: Worker, told: Sequence[Change], after: int, upto: int) -> None:
        """Hold a stream's changes against the log of what this worker followed."""
        assert worker.followed is not None
        log = self.history.branches[worker.followed].log
        expected = [
            (at, fact.key, fact.action)
            for at, fact in enumerate(log[:upto], 1)
            if at > after and worker.stream.wanted.matches(fact.key)
        ]
        assert [(change.revision, change.key, change.action) for change in told] == expected

    def check_log(self) -> None:
        """I1, I2, I3: the log holds what was acknowledged, nothing else, in order and without a gap."""
        page = self._database.store.changes(NameFilter(), self.compacted, 1000)
        assert page.compacted_revision == self.compacted
        assert page.head.revision == self.history.now.head
        kept = self.history.now.log[self.compacted :]
        assert [
            (change.revision, change.key, change.action, change.url, change.is_active, change.batch_end)
            for change in page.changes
        ] == [
            (at, fact.key, fact.action, *(fact.state or (None, False)), fact.batch_end)
            for at, fact in enumerate(kept, self.compacted + 1)
        ]

    def check_refusal(
        self, worker: Worker, error: TrafficManagerError, asked: Asked, *, must_know: bool = False
    ) -> None:
        """A read is refused only because the database is away, or cannot give what the token asks for."""
        assert not must_know, "who has all routes needs nobody"
        if not self.is_settled(worker) or asked.head[0] != len(self.history.branches) - 1:
            return
        if isinstance(error, EpochMismatch):
            assert asked.token is not None
            assert asked.token.epoch8 != self.history.now.epoch8
        elif isinstance(error, NotYetReached):
            assert asked.token is not None
            assert asked.token.revision > asked.head[1]
        else:
            assert worker.line.cuts > asked.cuts, "only an outage is a reason to know nothing"
