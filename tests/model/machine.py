"""The machine: what may happen to the workers, and what must be true of each answer in the moment it is given."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.databases import Database, InMemory, Line, MemoryClock
from tests.model.history import Branch, Fact, History, Place, Planned, plan
from tests.model.redis import POISONS, MemoryRedis
from tests.model.worker import Worker, new_worker, recall
from tests.routing.builders import a_key, activate, deactivate, delete
from tests.routing.stepped import Post
from traffic_manager.errors import (
    BatchFailed,
    EpochMismatch,
    NotYetReached,
    OutcomeUnknown,
    SourceUnavailable,
    TrafficManagerError,
)
from traffic_manager.routing.follower import FRESH_S, Beside
from traffic_manager.routing.model import Change, Position, Route, RouteKey
from traffic_manager.routing.operations import Operation, Verb
from traffic_manager.routing.ports import Entry, NameFilter, Sighting
from traffic_manager.routing.registry import Written
from traffic_manager.routing.resolver import Source
from traffic_manager.routing.watchers import Ending
from traffic_manager.snapshot import SnapshotFile

# Two tenants have a service of the same name: neither may be given what is the other's.
KEYS = [a_key("a"), a_key("a", tenant="team-b"), a_key("b"), a_key("c", tenant="team-b")]
TWINS = {KEYS[0]: KEYS[1], KEYS[1]: KEYS[0]}
WORKERS = 3
ABSENCE_TTL_S = 10.0
# A batch has to fit in a slice of the log.
MOST_OPERATIONS = 3
Result = TypeVar("Result")


@dataclass(frozen=True)
class Asked:
    """How a read was asked for, and where everything stood then. *cuts*: how often the line had been cut."""

    head: Place
    at_s: float
    cuts: int
    is_strong: bool = False
    token: Position | None = None


@dataclass(frozen=True)
class Copy:
    """A copy of the database, and of what the model knew then."""

    copied: object
    epoch8: str
    log: list[Fact]
    compacted: int


@dataclass(frozen=True)
class Saved:
    """What the model knew when the snapshot on disk was written."""

    followed: int
    seen_at_s: float
    max_routes: int


def url_of(key: RouteKey, number: int) -> str:
    """Return one of the URLs that only *key* ever has."""
    return f"https://{key.service}.{key.tenant}.example/{number}"


def put(key: RouteKey, number: int, is_active: bool | None = None) -> Operation:
    """Wish for a route with that URL."""
    return Operation(Verb.PUT, key, url_of(key, number), is_active)


workers = st.integers(0, WORKERS - 1)
some_workers = st.sets(workers)
keys = st.sampled_from(KEYS)
slow = st.booleans()
modes = st.sampled_from(["plain", "plain", "strong", "token", "old token"])
operations = st.one_of(
    st.builds(put, keys, st.integers(0, 2), st.sampled_from([None, None, True, False])),
    st.builds(lambda key, number: Operation(Verb.CREATE, key, url_of(key, number)), keys, st.integers(0, 1)),
    st.builds(lambda wish, key: wish(key), st.sampled_from([activate, deactivate, delete]), keys),
)
batches = st.lists(operations, min_size=1, max_size=MOST_OPERATIONS)
sizes = st.permutations([100, 2, 0])
# Much happens to one key while a read of it is on its way.
STEPS = [
    *("put", "put", "deactivate", "follow", "deliver", "look", "elsewhere", "plain", "strong", "slow strong"),
    *("slow plain", "slow twin", "cut", "heal"),
]
steps = st.lists(st.sampled_from(STEPS), min_size=2, max_size=7)
BEGINNINGS = [
    [],
    ["slow plain"],
    ["elsewhere", "slow plain"],
    ["look", "put"],
    ["slow strong", "put", "follow"],
    ["back up", "put", "follow", "slow strong", "restore", "put", "follow"],
    ["back up", "put", "elsewhere", "restore", "put", "put", "follow"],
]


class SeveralWorkers(RuleBasedStateMachine):
    """Three workers: one holds every route, one a few, one none; restarts give them other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now_s = 1000.0
        self.clock = MemoryClock()
        self.post = Post()
        self.database = self.new_database()
        self.operator = self.database.feed()
        self.redis = MemoryRedis(lambda: self.now_s)
        self.image: Mapping[str, bytes] = {}
        self.rejections = 0
        self.history = History(self.database.store.look_up([]).head.epoch8)
        self.heads: list[tuple[float, Place]] = [(0.0, (0, 0))]
        self.compacted = 0
        self.copies: list[Copy] = []
        self.reads: list[asyncio.Task[None]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="traffic-manager-model-"))
        self.snapshots = SnapshotFile(self.folder / "snapshot", "a database")
        self.saved: Saved | None = None
        self.workers: list[Worker] = []

    def new_database(self) -> Database:
        """Return an empty database."""
        return InMemory(self.clock)

    def new_worker(self, max_routes: int) -> Worker:
        line = Line(self.database)
        return new_worker(
            line, self.redis, self.post, max_routes, NameFilter(tenant="team-a"), ABSENCE_TTL_S, self.reject
        )

    def reject(self, reason: str) -> None:
        self.rejections += 1

    def teardown(self) -> None:
        self.deliver_all()
        still_waiting = [read for read in self.reads if not read.done()]
        for worker in self.workers:
            worker.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self.operator.close()
        self.database.close()
        shutil.rmtree(self.folder)
        assert not still_waiting

    # -- what may happen: writes

    @initialize(max_routes=sizes, active=st.sampled_from([0, 2, 4]), followed=some_workers)
    def begin_with(self, max_routes: list[int], active: int, followed: set[int]) -> None:
        self.workers = [self.new_worker(size) for size in max_routes]
        for key in KEYS[:active]:
            self.write(0, [put(key, 0)], followed=set())
        self.follow(followed)

    @rule(worker=workers, batch=batches, followed=some_workers)
    def write(self, worker: int, batch: list[Operation], followed: set[int]) -> None:
        """One request; more than one operation are a batch."""
        [written] = self.have_written(worker, [batch], are_batches=len(batch) > 1)
        self.expect(worker, batch, written, plan(self.history.now.states(), batch))
        self.check_log()
        self.follow(followed)

    @rule(worker=workers, wishes=st.lists(operations, min_size=2, max_size=4))
    def write_several(self, worker: int, wishes: list[Operation]) -> None:
        """Requests that share a commit: each stands or falls alone, as if it had come by itself."""
        before = self.history.now.states()
        results = self.have_written(worker, [[wish] for wish in wishes], are_batches=False)
        for wish, written in zip(wishes, results, strict=True):
            alone, in_turn = plan(before, [wish]), plan(self.history.now.states(), [wish])
            # What changes nothing may be decided on the state before the group: they came at the same time.
            is_unchanged = isinstance(alone, TrafficManagerError) or not alone
            is_as_before = is_unchanged and self.is_told(written, alone)
            self.expect(worker, [wish], written, alone if is_as_before else in_turn)
        self.check_log()

    @rule(worker=workers, batch=batches, lost=st.sampled_from(["write", "answer"]))
    def write_and_lose(self, worker: int, batch: list[Operation], lost: str) -> None:
        """The connection breaks during the commit: nobody can say what became of it, but the log can."""
        line = self.workers[worker].line
        if line.is_cut:
            return
        planned = plan(self.history.now.states(), batch)
        line.loses_next = lost
        [written] = self.have_written(worker, [batch], are_batches=True)
        is_begun, line.loses_next = line.loses_next is None, None
        if is_begun and isinstance(written, OutcomeUnknown):
            self.record([] if lost == "write" or isinstance(planned, TrafficManagerError) else planned)
        else:
            self.expect(worker, batch, written, planned)
        self.check_log()

    def have_written(
        self, worker: int, requests: Sequence[Sequence[Operation]], *, are_batches: bool
    ) -> list[Written | BaseException]:
        return self.run(self.workers[worker].write(requests, are_batches=are_batches))

    def is_told(self, written: Written | BaseException, planned: object) -> bool:
        """Return whether a request came to nothing just as *planned* has it."""
        if isinstance(written, Written):
            return not planned and not any(outcome.action for outcome in written.outcomes)
        return type(_cause(written)) is type(planned)

    def expect(
        self,
        worker: int,
        batch: Sequence[Operation],
        written: Written | BaseException,
        planned: list[Planned] | TrafficManagerError,
    ) -> None:
        """Compare what a request came to with what it had to; then the worker shows it."""
        if isinstance(written, BaseException):
            is_cut = self.workers[worker].line.is_cut
            expected = SourceUnavailable if is_cut else type(planned)
            assert type(_cause(written)) is expected, f"a request is refused for a reason: {written!r}"
            return
        assert not isinstance(planned, TrafficManagerError), f"what was made must not have been: {planned!r}"
        self.record(planned)
        changes = [outcome for outcome in written.outcomes if outcome.action]
        assert [(o.operation.key, o.action) for o in changes] == [change[:2] for change in planned]
        assert [o.revision for o in changes] == list(
            range(self.history.now.head - len(planned) + 1, self.history.now.head + 1)
        )
        if changes:
            assert written.head.position == Position(self.history.now.epoch8, self.history.now.head)
        for outcome in {outcome.operation.key: outcome for outcome in written.outcomes}.values():
            self.show(worker, outcome.operation.key, outcome.route, written)

    def record(self, planned: Sequence[Planned]) -> None:
        """Take over into the model what was written."""
        end = self.history.now.head + len(planned)
        self.history.now.log += [Fact(*change, end) for change in planned]
        self.heads.append((self.now_s, self.history.head))

    def show(self, worker: int, key: RouteKey, route: Route | None, written: Written) -> None:
        """The one who wrote is answered: from now on this worker shows nothing older."""
        target = self.workers[worker]
        sighting = Sighting(written.head, {key: route} if route else {})
        target.resolver.saw(key, sighting)
        if self.is_settled(target):
            place = len(self.history.branches) - 1, written.head.revision
            target.floors[key] = max(target.floors.get(key, (0, 0)), place)

    # -- what may happen: reads

    @rule(worker=workers, key=keys, mode=modes, is_slow=slow, behind=st.integers(-1, 3))
    def resolve(self, worker: int, key: RouteKey, mode: str, is_slow: bool, behind: int) -> None:
        token = self.token(mode, behind)
        self.read(worker, key, is_slow=is_slow, is_strong=mode == "strong", token=token)

    @rule(worker=workers, some=st.lists(keys, min_size=1, max_size=4), mode=modes, is_slow=slow)
    def resolve_batch(self, worker: int, some: list[RouteKey], mode: str, is_slow: bool) -> None:
        token = self.token(mode, 0)
        asked = self.asked(worker, is_strong=mode == "strong", token=token)
        with self.slowly(is_slow):
            self.begin(self.ask_for_all(self.workers[worker], some, asked))

    @rule(worker=workers, key=keys, first=st.sampled_from(BEGINNINGS), then=steps)
    def crowd(self, worker: int, key: RouteKey, first: list[str], then: list[str]) -> None:
        for step in [*first, *then]:
            self.take(step, worker, key)
            self.every_worker_answers_right_from_memory()
        self.deliver_all()

    def take(self, step: str, worker: int, key: RouteKey) -> None:
        line = self.workers[worker].line
        if step == "put":
            self.write((worker + 1) % WORKERS, [put(key, 10 + self.history.now.head)], followed=set())
        elif step == "deactivate":
            self.write(worker, [Operation(Verb.DEACTIVATE, key)], followed=set())
        elif step == "follow":
            self.follow({worker})
        elif step == "deliver":
            self.deliver(0)
        elif step == "look":
            self.look(worker, key, is_slow=True)
        elif step == "elsewhere":
            self.read((worker + 1) % WORKERS, key, is_slow=False, is_strong=True)
        elif step == "cut":
            line.cut()
        elif step == "heal":
            line.is_cut = False
        elif step == "back up":
            self.back_up()
        elif step == "restore":
            self.restore(-1, is_told=False, more=[], followed=set())
        else:
            asked_for = TWINS.get(key, key) if step.endswith("twin") else key
            self.read(worker, asked_for, is_slow=step.startswith("slow"), is_strong=step.endswith("strong"))

    @rule(worker=workers, key=keys, is_slow=slow)
    def look(self, worker: int, key: RouteKey, is_slow: bool) -> None:
        """Somebody reads the route itself, and the resolver is told what was seen."""
        target = self.workers[worker]
        if target.line.is_cut:
            return
        with self.slowly(is_slow):
            self.begin(self.tell(target, key, target.line.look_up([key])))

    @rule(worker=workers, is_active=st.sampled_from([None, True, False]))
    def list_routes(self, worker: int, is_active: bool | None) -> None:
        line = self.workers[worker].line
        if line.is_cut:
            return
        page = line.page(NameFilter(), is_active, None, 100)
        assert page.head.position == Position(self.history.now.epoch8, self.history.now.head)
        found = {route.key: (route.url, route.is_active) for route in page.routes}
        states = self.history.now.states().items()
        assert found == {key: state for key, state in states if state and is_active in (None, state[1])}
        assert all(route.revision == self.history.now.last_change(route.key) for route in page.routes)

    @rule(worker=workers)
    def read_stream(self, worker: int) -> None:
        """A stream tells each matching change once and in order, from memory or else from the database."""
        target = self.workers[worker]
        if target.mirror.head is None:
            return
        watcher = target.stream.watcher or target.stream.open(target.mirror.applied)
        before = watcher.position
        page = self.run(watcher.next(0))
        if page is not None:
            self.check_told(target, [told.change for told in page.told], before, page.upto)
        elif watcher.ending is not None:
            assert watcher.ending is Ending.HISTORY_CHANGED
            assert len(self.history.branches) > 1, "only a fork ends a stream"
            target.stream.open(target.mirror.applied)
        elif self.is_settled(target) and not target.line.is_cut:
            found = target.line.changes(target.stream.wanted, before, 1000)
            if before >= found.compacted_revision:
                self.check_told(target, found.changes, before, found.head.revision)
            watcher.skip_to(found.head.revision)

    # -- what may happen: the parts fail, are put right, and start again

    @rule(followed=some_workers)
    def follow(self, followed: set[int]) -> None:
        for number in sorted(followed):
            worker = self.workers[number]
            must_notice, known = self.has_seen_lost(worker), worker.mirror.head
            is_well = worker.follower.step()
            assert is_well != worker.line.is_cut
            if is_well:
                self.notice_epoch(is_expected=must_notice)
                if must_notice and known:
                    head = self.database.store.look_up([]).head
                    assert not self.history.now.is_hidden, "who has seen what was lost notices"
                    assert head.epoch_number > known.epoch_number, "a later history has a greater number"
                assert worker.mirror.applied == self.history.now.head
                assert worker.mirror.head is not None
                assert worker.mirror.head.epoch8 == self.history.now.epoch8
                worker.followed, worker.polled_at_s = len(self.history.branches) - 1, self.now_s

    @rule(which=st.integers(0, 9))
    def deliver(self, which: int) -> None:
        if self.post.waiting:
            self.post.waiting.pop(which % len(self.post.waiting)).set_result(None)
            self.run_until_idle()

    @rule(cut=some_workers)
    def cut_lines(self, cut: set[int]) -> None:
        """The database is away for some workers, or for all."""
        for number, worker in enumerate(self.workers):
            if number in cut:
                worker.line.cut()
            else:
                worker.line.is_cut = False

    @rule(worker=workers)
    def save_snapshot(self, worker: int) -> None:
        target = self.workers[worker]
        if target.mirror.is_complete and target.followed is not None and target.polled_at_s is not None:
            seen_at = self.clock.read() - (self.now_s - target.polled_at_s)
            self.snapshots.write(target.mirror, Beside(), seen_at)
            self.saved = Saved(target.followed, seen_at, target.mirror.max_routes)

    @rule(worker=workers, max_routes=st.sampled_from([100, 2, 0]), is_followed=slow)
    def restart(self, worker: int, max_routes: int, is_followed: bool) -> None:
        self.replace(worker, max_routes)
        self.be_told_of_hidden_fork()
        if is_followed:
            self.follow({worker})

    @rule(worker=workers, is_cut=slow)
    def restart_from_snapshot(self, worker: int, is_cut: bool) -> None:
        saved, snapshot = self.saved, self.snapshots.read()
        if saved is None:
            return
        assert snapshot is not None, "what was saved can be read"
        target = self.replace(worker, saved.max_routes)
        at_head_s = self.now_s - max(FRESH_S + 1e-6, self.clock.read() - snapshot.seen_at)
        recall(target, snapshot, at_head_s)
        target.followed, target.polled_at_s = saved.followed, at_head_s
        if is_cut:
            target.line.cut()
        self.be_told_of_hidden_fork()

    def replace(self, worker: int, max_routes: int) -> Worker:
        self.deliver_all()
        self.workers[worker].close()
        self.workers[worker] = self.new_worker(max_routes)
        return self.workers[worker]

    @rule(how=st.sampled_from(["flush", "save", "restore", "leave", "come back"]))
    def disturb_redis(self, how: str) -> None:
        if how == "flush":
            self.redis.strings.clear()
        elif how == "save":
            self.image = self.redis.image()
        elif how == "restore":
            self.redis.restore(self.image)
        else:
            self.redis.is_away = how == "leave"

    @rule(key=keys, how=st.sampled_from(sorted(POISONS)), worker=workers)
    def poison_redis(self, key: RouteKey, how: str, worker: int) -> None:
        """Spoil an entry that somebody has just put there, and ask all who may read it."""
        self.read(worker, key, is_slow=False, is_strong=True)
        self.redis.poison(key, how)
        for reader in range(WORKERS):
            self.read(reader, key, is_slow=False)

    @rule(
        seconds=st.sampled_from([0.4, 1.1, 20.0]), jump_s=st.sampled_from([0.0, -3600.0, -5.0, 5.0, 3600.0])
    )
    def pass_time(self, seconds: float, jump_s: float) -> None:
        """No read takes as long: their deadlines are shorter. The wall clock may jump meanwhile."""
        self.deliver_all()
        self.now_s += seconds
        self.clock.jump(seconds + jump_s)

    @rule(kept=st.integers(1, 4))
    def compact(self, kept: int) -> None:
        """Nobody compacts in the moment between a restore and the first poll."""
        if self.history.now.is_hidden:
            return
        before, self.compacted = self.compacted, self.database.compact(kept)
        assert self.compacted <= max(before, self.history.now.head - kept)

    @rule()
    def back_up(self) -> None:
        now = self.history.now
        if not now.is_hidden:
            self.copies.append(Copy(self.database.back_up(), now.epoch8, now.log.copy(), self.compacted))

    @rule(which=st.integers(-2, 2), is_told=slow, more=batches, followed=some_workers)
    def restore(self, which: int, is_told: bool, more: list[Operation], followed: set[int]) -> None:
        """Go on from an older copy, perhaps with more changes than were lost; the operator may say so (`new-epoch`)
        or not. Every worker has followed by then: before, nothing here tells one history from another."""
        if not self.copies or any(worker.followed is None for worker in self.workers):
            return
        copy = self.copies[which % len(self.copies)]
        self.database.restore(copy.copied)
        self.history.turn_to(Branch(copy.epoch8, copy.log.copy(), is_hidden=True))
        self.compacted = copy.compacted
        self.heads.append((self.now_s, self.history.head))
        if is_told:
            self.be_told()
        self.be_told_of_hidden_fork()
        for operation in more:
            self.write(0, [operation], followed=set())
        self.follow(followed)

    def be_told_of_hidden_fork(self) -> None:
        """Where no worker is left that has seen what was lost, only the operator can know of it."""
        now = self.history.now
        if now.is_hidden and not any(self.has_seen_lost(worker) for worker in self.workers):
            self.be_told()

    def has_seen_lost(self, worker: Worker) -> bool:
        """Return whether *worker* can tell that the database has gone back: to another past of its own epoch, or to
        an epoch that is no later."""
        known, now = worker.mirror.head, self.history.now
        if worker.followed is None or known is None:
            return False
        if known.epoch8 != now.epoch8:
            return known.epoch_number >= self.database.store.look_up([]).head.epoch_number
        followed = self.history.branches[worker.followed]
        return now.is_hidden and worker.mirror.applied > followed.base(now)

    def be_told(self) -> None:
        self.operator.leave_epoch(self.operator.pulse(0).head.epoch)
        self.notice_epoch(is_expected=True)

    def notice_epoch(self, *, is_expected: bool) -> None:
        """Let the model know if another epoch was begun."""
        epoch8 = self.database.store.look_up([]).head.epoch8
        if epoch8 != self.history.now.epoch8:
            assert is_expected, "an epoch is left only after a fork"
            assert epoch8 not in {branch.epoch8 for branch in self.history.branches}
            self.history.turn_to(Branch(epoch8, self.history.now.log.copy()))
            self.heads.append((self.now_s, self.history.head))

    # -- what must be

    @invariant()
    def every_worker_answers_right_from_memory(self) -> None:
        for number, worker in enumerate(self.workers):
            for key in KEYS:
                answer = worker.resolver.from_memory(key)
                if answer:
                    self.check_flag(worker, answer.stale_age_s)
                    self.check(worker, key, answer.epoch8, answer.as_of, answer.entry, self.asked(number))
                    self.check_age(
                        worker, (answer.epoch8, answer.as_of), answer.stale_age_s, self.asked(number)
                    )

    @invariant()
    def mirrors_stay_within_their_limits_and_count_the_others(self) -> None:
        for worker in self.workers:
            mirror = worker.mirror
            assert len(mirror) <= mirror.max_routes
            if self.is_settled(worker) and mirror.head is not None and mirror.max_routes:
                states = self.history.now.states(mirror.applied).values()
                active = sum(1 for state in states if state and state[1])
                assert mirror.active_routes == active
                assert not mirror.is_complete or len(mirror) == active

    def is_settled(self, worker: Worker) -> bool:
        """Return whether this worker is on the branch that the database is on, or has none yet. In the moment between
        a fork and the poll that notices it, the same revision means two things, and no order can be kept."""
        return worker.followed in (None, len(self.history.branches) - 1) and not self.history.now.is_hidden

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
        age_s = None if worker.polled_at_s is None else self.now_s - worker.polled_at_s
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
        page = self.database.store.changes(NameFilter(), self.compacted, 1000)
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

    # -- how it is done

    def asked(self, worker: int, *, is_strong: bool = False, token: Position | None = None) -> Asked:
        line = self.workers[worker].line
        return Asked(self.history.head, self.now_s, line.cuts - line.is_cut, is_strong, token)

    def token(self, mode: str, behind: int) -> Position | None:
        """Return a token of now, or of the first history of all."""
        branch = {"token": self.history.now, "old token": self.history.branches[0]}.get(mode)
        return Position(branch.epoch8, max(0, branch.head - behind)) if branch else None

    def read(
        self,
        worker: int,
        key: RouteKey,
        *,
        is_slow: bool,
        is_strong: bool = False,
        token: Position | None = None,
    ) -> None:
        asked = self.asked(worker, is_strong=is_strong, token=token)
        with self.slowly(is_slow):
            self.begin(self.ask(self.workers[worker], key, asked))

    async def ask(self, worker: Worker, key: RouteKey, asked: Asked) -> None:
        was_complete = worker.mirror.is_complete
        try:
            answer = await worker.resolver.resolve(key, is_strong=asked.is_strong, at_least=asked.token)
        except (SourceUnavailable, EpochMismatch) as error:
            is_plain = not asked.is_strong and asked.token is None
            self.check_refusal(worker, error, asked, must_know=was_complete and is_plain)
        else:
            if answer.source is not Source.MISS:
                self.check_flag(worker, answer.stale_age_s)
            self.check(worker, key, answer.epoch8, answer.as_of, answer.entry, asked)
            self.check_age(worker, (answer.epoch8, answer.as_of), answer.stale_age_s, asked)

    async def ask_for_all(self, worker: Worker, some: list[RouteKey], asked: Asked) -> None:
        resolver = worker.batch_resolver
        try:
            answers = await resolver.resolve(some, is_strong=asked.is_strong, at_least=asked.token)
        except (SourceUnavailable, EpochMismatch) as error:
            self.check_refusal(worker, error, asked)
        else:
            for key, entry in zip(some, answers.entries, strict=True):
                self.check(worker, key, answers.epoch8, answers.as_of, entry, asked)
            self.check_age(worker, (answers.epoch8, answers.as_of), answers.stale_age_s, asked)

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

    async def tell(self, worker: Worker, key: RouteKey, sighting: Sighting) -> None:
        await self.post.carry(None)
        worker.resolver.saw(key, sighting)

    def deliver_all(self) -> None:
        while self.post.waiting:
            self.deliver(0)

    @contextmanager
    def slowly(self, is_slow: bool) -> Iterator[None]:
        """Let replies to what is asked in the block wait for their delivery."""
        self.post.is_slow = is_slow
        yield
        self.run_until_idle()
        self.post.is_slow = False

    def begin(self, work: Awaitable[None]) -> None:
        self.reads.append(self.loop.create_task(work))  # type: ignore[arg-type] # a coroutine

    def run_until_idle(self) -> None:
        """Let everything run that waits for no delivery; raise what failed."""
        for _ in range(12):
            self.loop.run_until_complete(asyncio.sleep(0))
        for read in [read for read in self.reads if read.done()]:
            self.reads.remove(read)
            read.result()

    def run(self, work: Awaitable[Result]) -> Result:
        return self.loop.run_until_complete(work)


def _cause(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, BatchFailed) else error
