"""The machine: what may happen to the workers, and what must be true of each answer in the moment it is given."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.databases import Database, InMemory, Line, MemoryClock
from tests.model.history import Branch, Fact, Planned, plan
from tests.model.redis import POISONS, MemoryRedis
from tests.model.truth import Asked, Truth
from tests.model.wishes import (
    BEGINNINGS,
    KEYS,
    TWINS,
    WORKERS,
    batches,
    keys,
    modes,
    operations,
    put,
    sizes,
    slow,
    some_workers,
    steps,
    workers,
)
from tests.model.worker import Worker, new_worker, recall
from tests.routing.stepped import SteppedLoop
from traffic_manager.errors import (
    BatchFailed,
    EpochMismatch,
    OutcomeUnknown,
    SourceUnavailable,
    TrafficManagerError,
)
from traffic_manager.routing.follower import FRESH_S, Beside
from traffic_manager.routing.model import Position, Route, RouteKey
from traffic_manager.routing.operations import Operation, Verb
from traffic_manager.routing.ports import NameFilter, Sighting
from traffic_manager.routing.registry import Written
from traffic_manager.routing.resolver import Source
from traffic_manager.routing.watchers import Ending
from traffic_manager.snapshot import SnapshotFile

ABSENCE_TTL_S = 10.0


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
    max_routes: int


class SeveralWorkers(RuleBasedStateMachine):
    """Three workers: one holds every route, one a few, one none; restarts give them other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.now_s = 1000.0
        self.clock = MemoryClock()
        self.database = self.new_database()
        self.operator = self.database.feed()
        self.redis = MemoryRedis(lambda: self.now_s)
        self.image: Mapping[str, bytes] = {}
        self.truth = Truth(self.database, lambda: self.now_s)
        self.history = self.truth.history
        self.copies: list[Copy] = []
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
            line,
            self.redis,
            self.loop.post,
            max_routes,
            NameFilter(tenant="team-a"),
            ABSENCE_TTL_S,
            lambda _reason: None,
        )

    def teardown(self) -> None:
        self.loop.deliver_all()
        for worker in self.workers:
            worker.close()
        still_waiting = self.loop.close()
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
        self.truth.check_log()
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
        self.truth.check_log()

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
            self.truth.record([] if lost == "write" or isinstance(planned, TrafficManagerError) else planned)
        else:
            self.expect(worker, batch, written, planned)
        self.truth.check_log()

    def have_written(
        self, worker: int, requests: Sequence[Sequence[Operation]], *, are_batches: bool
    ) -> list[Written | BaseException]:
        return self.loop.run(self.workers[worker].write(requests, are_batches=are_batches))

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
        self.truth.record(planned)
        changes = [outcome for outcome in written.outcomes if outcome.action]
        assert [(o.operation.key, o.action) for o in changes] == [change[:2] for change in planned]
        assert [o.revision for o in changes] == list(
            range(self.history.now.head - len(planned) + 1, self.history.now.head + 1)
        )
        if changes:
            assert written.head.position == Position(self.history.now.epoch8, self.history.now.head)
        for outcome in {outcome.operation.key: outcome for outcome in written.outcomes}.values():
            self.show(worker, outcome.operation.key, outcome.route, written)

    def show(self, worker: int, key: RouteKey, route: Route | None, written: Written) -> None:
        """The one who wrote is answered: from now on this worker shows nothing older."""
        target = self.workers[worker]
        sighting = Sighting(written.head, {key: route} if route else {})
        target.resolver.saw(key, sighting)
        if self.truth.is_settled(target):
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
        with self.loop.slowly(is_slow):
            self.loop.begin(self.ask_for_all(self.workers[worker], some, asked))

    @rule(worker=workers, key=keys, first=st.sampled_from(BEGINNINGS), then=steps)
    def crowd(self, worker: int, key: RouteKey, first: list[str], then: list[str]) -> None:
        for step in [*first, *then]:
            self.take(step, worker, key)
            self.every_worker_answers_right_from_memory()
        self.loop.deliver_all()

    def take(self, step: str, worker: int, key: RouteKey) -> None:
        line = self.workers[worker].line
        if step == "put":
            self.write((worker + 1) % WORKERS, [put(key, 10 + self.history.now.head)], followed=set())
        elif step == "deactivate":
            self.write(worker, [Operation(Verb.DEACTIVATE, key)], followed=set())
        elif step == "follow":
            self.follow({worker})
        elif step == "deliver":
            self.loop.deliver(0)
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
        with self.loop.slowly(is_slow):
            self.loop.begin(self.tell(target, key, target.line.look_up([key])))

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
        page = self.loop.run(watcher.next(0))
        if page is not None:
            self.truth.check_told(target, [told.change for told in page.told], before, page.upto)
        elif watcher.ending is not None:
            assert watcher.ending is Ending.HISTORY_CHANGED
            assert len(self.history.branches) > 1, "only a fork ends a stream"
            target.stream.open(target.mirror.applied)
        elif self.truth.is_settled(target) and not target.line.is_cut:
            found = target.line.changes(target.stream.wanted, before, 1000)
            if before >= found.compacted_revision:
                self.truth.check_told(target, found.changes, before, found.head.revision)
            watcher.skip_to(found.head.revision)

    # -- what may happen: the parts fail, are put right, and start again

    @rule(followed=some_workers)
    def follow(self, followed: set[int]) -> None:
        for number in sorted(followed):
            worker = self.workers[number]
            must_notice, known = self.truth.has_seen_lost(worker), worker.mirror.head
            is_well = worker.follower.step()
            assert is_well != worker.line.is_cut
            if is_well:
                self.truth.notice_epoch(is_expected=must_notice)
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
        self.loop.deliver(which)

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
            self.saved = Saved(target.followed, target.mirror.max_routes)

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
        self.loop.deliver_all()
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
        self.loop.deliver_all()
        self.now_s += seconds
        self.clock.jump(seconds + jump_s)

    @rule(kept=st.integers(1, 4))
    def compact(self, kept: int) -> None:
        """Nobody compacts in the moment between a restore and the first poll."""
        if self.history.now.is_hidden:
            return
        before, self.truth.compacted = self.truth.compacted, self.database.compact(kept)
        assert self.truth.compacted <= max(before, self.history.now.head - kept)

    @rule()
    def back_up(self) -> None:
        now = self.history.now
        if not now.is_hidden:
            self.copies.append(
                Copy(self.database.back_up(), now.epoch8, now.log.copy(), self.truth.compacted)
            )

    @rule(which=st.integers(-2, 2), is_told=slow, more=batches, followed=some_workers)
    def restore(self, which: int, is_told: bool, more: list[Operation], followed: set[int]) -> None:
        """Go on from an older copy, perhaps with more changes than were lost; the operator may say so (`new-epoch`)
        or not. Every worker has followed by then: before, nothing here tells one history from another."""
        if not self.copies or any(worker.followed is None for worker in self.workers):
            return
        copy = self.copies[which % len(self.copies)]
        self.database.restore(copy.copied)
        self.truth.turn_to(Branch(copy.epoch8, copy.log.copy(), is_hidden=True))
        self.truth.compacted = copy.compacted
        if is_told:
            self.be_told()
        self.be_told_of_hidden_fork()
        for operation in more:
            self.write(0, [operation], followed=set())
        self.follow(followed)

    def be_told_of_hidden_fork(self) -> None:
        """Where no worker is left that has seen what was lost, only the operator can know of it."""
        now = self.history.now
        if now.is_hidden and not any(self.truth.has_seen_lost(worker) for worker in self.workers):
            self.be_told()

    def be_told(self) -> None:
        self.operator.leave_epoch(self.operator.pulse(0).head.epoch)
        self.truth.notice_epoch(is_expected=True)

    # -- what must be

    @invariant()
    def every_worker_answers_right_from_memory(self) -> None:
        for number, worker in enumerate(self.workers):
            for key in KEYS:
                answer = worker.resolver.from_memory(key)
                if answer:
                    self.truth.check_flag(worker, answer.stale_age_s)
                    self.truth.check(
                        worker, key, answer.epoch8, answer.as_of, answer.entry, self.asked(number)
                    )
                    self.truth.check_age(
                        worker, (answer.epoch8, answer.as_of), answer.stale_age_s, self.asked(number)
                    )

    @invariant()
    def mirrors_stay_within_their_limits_and_count_the_others(self) -> None:
        for worker in self.workers:
            mirror = worker.mirror
            assert len(mirror) <= mirror.max_routes
            if self.truth.is_settled(worker) and mirror.head is not None and mirror.max_routes:
                states = self.history.now.states(mirror.applied).values()
                active = sum(1 for state in states if state and state[1])
                assert mirror.active_routes == active
                assert not mirror.is_complete or len(mirror) == active

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
        with self.loop.slowly(is_slow):
            self.loop.begin(self.ask(self.workers[worker], key, asked))

    async def ask(self, worker: Worker, key: RouteKey, asked: Asked) -> None:
        was_complete = worker.mirror.is_complete
        try:
            answer = await worker.resolver.resolve(key, is_strong=asked.is_strong, at_least=asked.token)
        except (SourceUnavailable, EpochMismatch) as error:
            is_plain = not asked.is_strong and asked.token is None
            self.truth.check_refusal(worker, error, asked, must_know=was_complete and is_plain)
        else:
            if answer.source is not Source.MISS:
                self.truth.check_flag(worker, answer.stale_age_s)
            self.truth.check(worker, key, answer.epoch8, answer.as_of, answer.entry, asked)
            self.truth.check_age(worker, (answer.epoch8, answer.as_of), answer.stale_age_s, asked)

    async def ask_for_all(self, worker: Worker, some: list[RouteKey], asked: Asked) -> None:
        resolver = worker.batch_resolver
        try:
            answers = await resolver.resolve(some, is_strong=asked.is_strong, at_least=asked.token)
        except (SourceUnavailable, EpochMismatch) as error:
            self.truth.check_refusal(worker, error, asked)
        else:
            for key, entry in zip(some, answers.entries, strict=True):
                self.truth.check(worker, key, answers.epoch8, answers.as_of, entry, asked)
            self.truth.check_age(worker, (answers.epoch8, answers.as_of), answers.stale_age_s, asked)

    async def tell(self, worker: Worker, key: RouteKey, sighting: Sighting) -> None:
        await self.loop.post.carry(None)
        worker.resolver.saw(key, sighting)


def _cause(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, BatchFailed) else error
