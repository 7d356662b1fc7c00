"""What the rules of routing need from others: facts as frozen types, abilities as Protocols.

`db` implements the stores and the feed, `cache` the route cache; `main` joins them. All but `RouteCache` are
synchronous, wait no longer than their own deadlines and raise `SourceUnavailable` when the database cannot
answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from traffic_manager.errors import EpochMismatch, NotYetReached, TrafficManagerError
from traffic_manager.routing.model import Action, Change, Position, Route, RouteKey, Trace


@dataclass(frozen=True, slots=True)
class Head:
    """Where a history stands: its *epoch* (a uuid's 32 hex digits), the epoch's ordinal, and the revision of
    the newest change (0 in an empty log)."""

    epoch: str
    epoch_number: int
    revision: int

    @property
    def epoch8(self) -> str:
        """The part of the epoch that tokens show."""
        return self.epoch[:8]

    @property
    def position(self) -> Position:
        """The head as a token."""
        return Position(self.epoch8, self.revision)

    def check_reached(self, wanted: Position) -> None:
        """Raise EpochMismatch if *wanted* is of another history, NotYetReached if it lies in the future."""
        if wanted.epoch8 != self.epoch8:
            raise self._at_head(EpochMismatch(str(wanted), self.epoch8))
        if self.revision < wanted.revision:
            raise self._at_head(NotYetReached(f"revision {wanted} does not exist yet"))

    def _at_head(self, error: TrafficManagerError) -> TrafficManagerError:
        error.as_of = self.position
        return error


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen under some keys, all at `head.revision`. A key without a route is absent."""

    head: Head
    routes: Mapping[RouteKey, Route]


Names = tuple[str | None, str | None, str | None, str | None]
# A tenant's environment; None: of any tenant, any environment.
Place = tuple[str | None, str | None]

EVERYWHERE: frozenset[Place] = frozenset({(None, None)})


@dataclass(frozen=True, slots=True)
class NameFilter:
    """Which routes or changes are asked for; None means any. *within*: only those in one of these places, because
    the caller may see no others."""

    tenant: str | None = None
    service: str | None = None
    env: str | None = None
    version: str | None = None
    within: frozenset[Place] = EVERYWHERE

    def matches(self, key: RouteKey) -> bool:
        """Return whether *key* has every name asked for, in a place of *within*."""
        tenant, _, env, _ = key
        return all(
            wanted is None or wanted == name for wanted, name in zip(self.names, key, strict=True)
        ) and (
            self.within is EVERYWHERE
            or not self.within.isdisjoint(((tenant, env), (tenant, None), (None, env), (None, None)))
        )

    @property
    def names(self) -> Names:
        """The four wanted names in the order of a key."""
        return self.tenant, self.service, self.env, self.version

    @property
    def patterns(self) -> Sequence[Names]:
        """What a key must have the names of: one of these; none if *within* leaves nothing of what is asked for."""
        if (None, None) in self.within:
            return [self.names]
        allowed = [
            (tenant or self.tenant, self.service, env or self.env, self.version)
            for tenant, env in self.within
            if _agree(tenant, self.tenant) and _agree(env, self.env)
        ]
        # Alike ones side by side, so that filters of one shape become one statement.
        return sorted(set(allowed), key=lambda names: [name or "" for name in names])

    @property
    def only_tenant(self) -> str | None:
        """The tenant of all that is asked for, None if there may be several."""
        tenants = {tenant for tenant, *_ in self.patterns}
        return tenants.pop() if len(tenants) == 1 else None

    def limited_to(self, within: frozenset[Place]) -> NameFilter:
        """Return the same question within these places."""
        return replace(self, within=within)


def _agree(allowed: str | None, wanted: str | None) -> bool:
    return allowed is None or wanted is None or allowed == wanted


@dataclass(frozen=True, slots=True)
class ChangeTraits:
    """What else the changes asked for must be like; None: anything. *actor*: who made them, or the owner of the API
    key that did. Made at *since* or later, and before *until*, in microseconds since 1970."""

    actor: str | None = None
    action: Action | None = None
    since: int | None = None
    until: int | None = None

    def match(self, change: Change) -> bool:
        """Return whether *change* is like that."""
        return (
            self.actor in (None, change.actor, change.actor.partition("/")[0])
            and self.action in (None, change.action)
            and (self.since is None or change.occurred_at >= self.since)
            and (self.until is None or change.occurred_at < self.until)
        )


ANY_TRAITS = ChangeTraits()
# So many changes a page is looked for in: no index is kept of what they are like, which each change would pay for.
TRAITS_SCAN = 50_000


@dataclass(frozen=True, slots=True)
class RoutePage:
    """Routes in key order as they were at *head*. *last*: others follow above this key; None: these are all."""

    head: Head
    routes: Sequence[Route]
    last: RouteKey | None

    @property
    def has_more(self) -> bool:
        """True if others follow."""
        return self.last is not None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes of one moment. *last*: others follow behind this revision; None: these are all.
    *compacted_revision*: changes up to it are no longer kept."""

    head: Head
    changes: Sequence[Change]
    last: int | None
    compacted_revision: int

    @property
    def has_more(self) -> bool:
        """True if others follow."""
        return self.last is not None


# A principal, and the idempotency key that it chose for a request.
RequestName = tuple[str, str]

# For so long, in microseconds, a request that was done is known by its name.
RECEIPTS_KEPT_US = 24 * 3600 * 1_000_000


class Claim(NamedTuple):
    """What says that a request is to be done once: its *principal*, the idempotency *key* that it chose, and the
    digest of what is asked for."""

    principal: str
    key: str
    request: bytes

    @property
    def name(self) -> RequestName:
        """What the request is known by."""
        return self.principal, self.key


class Receipt(NamedTuple):
    """What is kept of a request that was done: its *claim*, and what it came to, as text."""

    claim: Claim
    answer: str


class WriteTransaction(Protocol):
    """An open transaction that holds the revision lock: nobody else makes a change until it ends."""

    head: Head
    now: int  # the database's clock, microseconds since 1970
    routes: Mapping[RouteKey, Route]  # of the keys asked for

    @property
    def receipts(self) -> Mapping[RequestName, Receipt]:
        """The receipts of the claims asked for, as far as they are kept."""

    def look_up(self, keys: Collection[RouteKey], claims: Collection[Claim] = ()) -> None:
        """Ask for more: `routes` and `receipts` have what is there, too, then."""

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        """Return how many routes each of *tenants* has."""

    def append(self, changes: Sequence[Change], routes: Mapping[RouteKey, Route | None]) -> None:
        """Write *changes*, numbered from head + 1 without a gap, and the last state of every key that they
        touch (None: deleted)."""

    def trace(self, traces: Mapping[int, Trace]) -> None:
        """Keep, after `append`, what its changes are a part of, by revision; of the newest changes alone."""

    def keep(self, receipts: Sequence[Receipt]) -> None:
        """Keep *receipts*, with the changes or without any. Some of those that are kept no longer go."""


class RouteStore(Protocol):
    """The routes and their changes in the database, for reading and for writing."""

    def look_up(self, keys: Collection[RouteKey]) -> Sighting:
        """Return the routes of *keys* as they are at the head now."""

    def counts(self, tenants: Collection[str]) -> Mapping[str, int]:
        """Return how many routes each of *tenants* has now."""

    def page(
        self, wanted: NameFilter, is_active: bool | None, after: RouteKey | None, size: int
    ) -> RoutePage:
        """Return up to *size* routes above the key *after*."""

    def history(self, key: RouteKey, below: int | None, size: int) -> ChangePage:
        """Return up to *size* changes of *key* below revision *below*, the newest first."""

    def changes(
        self, wanted: NameFilter, after: int, limit: int, traits: ChangeTraits = ANY_TRAITS
    ) -> ChangePage:
        """Return up to *limit* changes of routes after revision *after*, the oldest first. With *traits* of the next
        TRAITS_SCAN revisions only."""

    def writing(
        self, keys: Collection[RouteKey], claims: Collection[Claim] = ()
    ) -> AbstractContextManager[WriteTransaction]:
        """Begin a change of *keys*, for requests with these *claims*: commits when the block ends well, else nothing
        was written. Raises OutcomeUnknown if the connection broke during the commit."""


class Entry(NamedTuple):
    """What the mirror keeps of an active route: all that an answer to resolve needs."""

    url: str
    revision: int


@dataclass(frozen=True, slots=True)
class Table:
    """Active routes at `head.revision`, by the text of their keys: all, or as many as were asked for and not
    the *beyond* others. *chain* is the digest there, *recent* the revisions and keys of the changes in
    (floor, head], the oldest first."""

    head: Head
    chain: bytes
    entries: MutableMapping[str, Entry]
    recent: Sequence[tuple[int, str]]
    floor: int
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row of an API key, as those need it who check keys; *grants* is JSON text. Times are microseconds since
    1970, UTC."""

    id: str
    owner: str
    digest: bytes = field(repr=False)
    grants: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class Limit:
    """How much somebody may: requests of each kind a second, and how many routes and keys; None: as the settings say.
    *subject*: `tenant` or `principal`, an owner of keys."""

    subject: str
    name: str
    resolves: int | None = None
    writes: int | None = None
    lists: int | None = None
    routes: int | None = None
    keys: int | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """Changes of routes in (after, upto], whole batches only; *chain* is the digest at *upto*. Changes of
    other kinds are passed over, but *upto* counts them; *has_keys* and *has_limits* tell whether API keys or limits
    changed. *traces*, by revision, are of new changes that traced requests made."""

    upto: int
    chain: bytes
    changes: Sequence[Change]
    has_keys: bool = False
    has_limits: bool = False
    traces: Mapping[int, Trace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a poll sees: the head, the chain digest at the revision asked about (None if not kept), and what
    follows that revision, if it was asked for and there is anything. Changes up to *compacted_revision* are
    no longer kept."""

    head: Head
    chain: bytes | None
    changes: Slice | None = None
    compacted_revision: int = 0


class ChangeFeed(Protocol):
    """The log of changes as a follower reads it, over a connection of its own."""

    def pulse(self, at: int, limit: int = 0) -> Pulse:
        """Return the head, the digest at revision *at* and, unless *limit* is 0, about so many changes after
        it: one cheap statement. Raises RevisionGap if a change is missing."""

    def slice(self, after: int, limit: int) -> Slice | None:
        """Return the changes after *after*, about *limit*; None if there are none. Raises RevisionGap
        if one is missing."""

    def table(self, max_routes: int, window: int) -> Table:
        """Return the table of one moment, at most *max_routes* of its active routes, with the last *window*
        changes."""

    def wait(self, bell: int, timeout_s: float) -> Sequence[int]:
        """Return as soon as a hint comes, the descriptor *bell* is readable, or time is up: the revisions that
        hints name, 0 for a probe. A hint says that this revision is committed; it may be lost."""

    def probe(self) -> None:
        """Send every follower a hint of revision 0, where there are hints, by the way that writers' hints take."""

    def keys(self) -> Sequence[StoredKey]:
        """Return the API keys that are not revoked as they are now: never older than what was read before."""

    def limits(self) -> Sequence[Limit]:
        """Return all that is set as limits now: never older than what was read before."""

    def leave_epoch(self, epoch: str, known_number: int = 0) -> None:
        """Begin another epoch if the history still has *epoch*: the next by its number, or after *known_number* if
        that is greater. For a history that is no longer the one that was known under that name."""

    def close(self) -> None:
        """Give the connection back."""


class Keyring(Protocol):
    """The API keys in memory, which a follower keeps as it keeps the mirror."""

    is_loaded: bool

    def load(self, keys: Collection[StoredKey]) -> None:
        """Take these keys instead of all that were here."""


class LimitKeeper(Protocol):
    """The limits in memory, which a follower keeps as it keeps the mirror."""

    def load(self, limits: Collection[Limit]) -> None:
        """Take these limits instead of all that were here."""


@dataclass(frozen=True, slots=True)
class CachedRoute:
    """What a cache knows of one key: true at revision *as_of* of *epoch*. *url* is None for "no active
    route"; *revision* is the route's own (0 where there is none)."""

    epoch: str
    as_of: int
    revision: int
    url: str | None


class RouteCache(Protocol):
    """A cache shared by workers. It may forget, lag or fail: then it misses, and never raises."""

    async def get(self, key: RouteKey) -> CachedRoute | None:
        """Return what is kept for *key*, None on a miss or failure."""

    async def put(self, key: RouteKey, entry: CachedRoute) -> None:
        """Keep *entry* for its time to live, if the cache can be reached."""
