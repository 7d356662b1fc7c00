"""What has happened, as plainly as it can be kept: the log of every branch that history has taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from traffic_manager.errors import RouteConflict, RouteNotFound, TrafficManagerError
from traffic_manager.routing.model import Action, Route, RouteKey
from traffic_manager.routing.operations import Operation, Verb
from traffic_manager.routing.ports import Entry

# The URL of a route, and whether it is active; None for no route.
State = tuple[str, bool] | None
# A change as it is planned: of which route, what it is called, and the state after it.
Planned = tuple[RouteKey, Action, State]
# A place in the course of all that happened: a later branch is after an earlier one, whatever the revisions.
Place = tuple[int, int]


@dataclass(frozen=True)
class Fact:
    """One change: revision n of a branch is its fact n - 1."""

    key: RouteKey
    action: Action
    state: State
    batch_end: int


@dataclass
class Branch:
    """One course of history under the name *epoch8*. *is_hidden*: it goes on from a restored database under the name
    of what was lost, and nobody has noticed yet."""

    epoch8: str
    log: list[Fact] = field(default_factory=list)
    is_hidden: bool = False

    @property
    def head(self) -> int:
        """The newest revision."""
        return len(self.log)

    def states(self, revision: int | None = None) -> Mapping[RouteKey, State]:
        """Return every route at *revision*, or now."""
        found = {fact.key: fact.state for fact in self.log[:revision]}
        return {key: state for key, state in found.items() if state}

    def entry(self, key: RouteKey, revision: int) -> Entry | None:
        """Return what serves *key* at *revision*."""
        for at in range(revision, 0, -1):
            fact = self.log[at - 1]
            if fact.key == key:
                return Entry(fact.state[0], at) if fact.state and fact.state[1] else None
        return None

    def last_change(self, key: RouteKey) -> int:
        """Return the revision of the newest change of *key*, 0 if there is none."""
        return next((at for at in range(self.head, 0, -1) if self.log[at - 1].key == key), 0)

    def base(self, other: Branch) -> int:
        """Return up to which revision both are the same."""
        pairs = zip(self.log, other.log, strict=False)
        return next(
            (at for at, (mine, theirs) in enumerate(pairs) if mine is not theirs), min(self.head, other.head)
        )


class History:
    """All branches; the last one is what the database has now."""

    def __init__(self, epoch8: str) -> None:
        self.branches = [Branch(epoch8)]

    @property
    def now(self) -> Branch:
        """The branch that the database is on."""
        return self.branches[-1]

    @property
    def head(self) -> Place:
        """Where the database stands."""
        return len(self.branches) - 1, self.now.head

    def turn_to(self, branch: Branch) -> None:
        """Go on from *branch*."""
        self.branches.append(branch)

    def places(self, epoch8: str, key: RouteKey, as_of: int, entry: Entry | None) -> Iterator[Place]:
        """Yield where *entry* was the state of *key* at revision *as_of* of a branch called *epoch8*."""
        for number, branch in enumerate(self.branches):
            if branch.epoch8 == epoch8 and as_of <= branch.head and branch.entry(key, as_of) == entry:
                yield number, as_of

    def ever_was(self, key: RouteKey, entry: Entry | None) -> bool:
        """Return whether *entry* was ever the state of *key*."""
        if entry is None:
            return True
        branches = [branch for branch in self.branches if branch.head >= entry.revision]
        return any(branch.entry(key, entry.revision) == entry for branch in branches)


def after(state: State, operation: Operation) -> State:
    """Return what *operation* makes of *state*, by the plainest rules. Raises RouteConflict or RouteNotFound."""
    if operation.verb is Verb.PUT:
        assert operation.url is not None
        was_active = state[1] if state else True
        return operation.url, was_active if operation.is_active is None else operation.is_active
    if operation.verb is Verb.CREATE:
        assert operation.url is not None
        if state not in (None, (operation.url, True)):
            raise RouteConflict(Route(operation.key, *(state or ("", False)), 0, 0, 0))
        return operation.url, True
    if state is None:
        raise RouteNotFound(operation.key)
    return None if operation.verb is Verb.DELETE else (state[0], operation.verb is Verb.ACTIVATE)


def action(before: State, now: State) -> Action:
    """Return what the change from *before* to *now* is called."""
    if now is None:
        return Action.DELETED
    if before is None:
        return Action.CREATED
    if before[0] != now[0]:
        return Action.UPDATED
    return Action.ACTIVATED if now[1] else Action.DEACTIVATED


def plan(
    states: Mapping[RouteKey, State], operations: Sequence[Operation]
) -> list[Planned] | TrafficManagerError:
    """Return the changes that *operations* come to, all together, or what prevents them."""
    now = dict(states)
    changes = []
    for operation in operations:
        before = now.get(operation.key)
        try:
            wanted = after(before, operation)
        except TrafficManagerError as failure:
            return failure
        if wanted != before:
            changes.append((operation.key, action(before, wanted), wanted))
        now[operation.key] = wanted
    return changes
