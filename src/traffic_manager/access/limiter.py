"""Counts requests against limits: a bucket of tokens for each tenant and principal, refilled as time goes by.

Integers only, the same work for every request, and memory for the callers of late alone. All of it runs on the event
loop, and nothing here waits. Each worker has its share of a limit: one part of as many as there are workers. Where
there is Redis they lease from a bucket that all share (`cache/shared_budgets.py`), in the background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from time import monotonic_ns

from traffic_manager.access.limits import Kind, Limits, Subject
from traffic_manager.errors import RateLimited

_SECOND = 1_000_000_000  # ns, and parts of a token
# So many buckets are kept of the callers of late, and as many of those before them; each takes about 250 bytes.
_MOST_BUCKETS = 10_000
# Where nothing is permitted there is no time to come back at; this is when to look again.
_NEVER_S = 3_600


class Bucket:
    """The tokens of somebody for one kind of request: *quota* come in a second, and so many it holds at most; one in
    *workers* of them are here. A batch may overdraw it, and those who come after wait for that."""

    __slots__ = (
        "_at",
        "_ceiling",
        "_full",
        "_leased_until",
        "_level",
        "_share",
        "_spent",
        "_workers",
        "name",
        "quota",
        "version",
    )

    def __init__(self, name: str, quota: int, workers: int, now: int) -> None:
        self.name = name  # what it is the bucket of, for whom
        self.version = 0  # of the limits that it was measured by
        self._at = self._ceiling = now
        self._leased_until = 0
        self._spent = 0  # tokens, since `settle`
        self._full = self._level = quota * _SECOND
        self.measure(quota, workers)

    def measure(self, quota: int, workers: int) -> None:
        """Go on with another quota, or another share."""
        self.quota, self._workers = quota, workers
        # One token at least: with less than that nothing would ever be let through.
        self._share = max(quota * _SECOND // workers, _SECOND) if quota else 0
        if not self._leased_until:
            self._full = self._share
        self._level = min(self._level, self._full, quota * _SECOND)

    def has(self, cost: int, now: int) -> bool:
        """Return whether there is enough for *cost* tokens; for a batch half of all will do."""
        if now >= self._leased_until:
            self._refill(now)
        needed = _SECOND if cost == 1 else min(cost * _SECOND, max(self._full // 2, _SECOND))
        # Whatever is leased, no worker lets more than the whole quota through.
        return self._level >= needed and self._ceiling < now + _SECOND

    def take(self, cost: int, now: int) -> None:
        """Take so many tokens, of which there are enough."""
        self._level -= cost * _SECOND
        self._spent += cost
        self._ceiling = max(self._ceiling, now) + cost * _SECOND // self.quota

    def wait_s(self, cost: int) -> int:
        """Return in how many seconds there may be enough, at least 1."""
        if not self.quota:
            return _NEVER_S
        missing = min(cost * _SECOND, max(self._full // 2, _SECOND)) - self._level
        return min(_NEVER_S, max(1, -(-missing * self._workers // (self.quota * _SECOND))))

    def _refill(self, now: int) -> None:
        self._full = self._share
        gained = (now - self._at) * self.quota // self._workers
        self._level = min(self._full, self._level + gained)
        if gained:
            self._at = now

    # Leasing.

    def settle(self, now: int) -> int:
        """Return how many tokens go back to the shared bucket: what is left of a lease; below 0 what was spent
        without one. What is spent from now on counts for the next."""
        back = self._level // _SECOND if now < self._leased_until else -self._spent
        self._spent = 0
        return back

    def lease(self, tokens: int, until: int) -> None:
        """Have *tokens* of the shared bucket, less what was spent since `settle`, and none of its own, to *until*."""
        self._full = min(tokens, self.quota) * _SECOND
        self._level = self._full - self._spent * _SECOND
        self._at = self._leased_until = until

    def release(self, left: int, now: int) -> None:
        """Have no lease any more, but its share, as far as that is among the tokens that are *left* to all: what is
        spent of it is told at the next `settle`."""
        self._full = self._share
        self._level = min(self._full, left * _SECOND) - self._spent * _SECOND
        self._at, self._leased_until = now, 0

    def forget_spent(self) -> None:
        """Owe nothing to a shared bucket that cannot be reached: the share is this worker's."""
        self._spent = 0


class _Shelf:
    """The buckets of tenants, or of principals, for one kind of request."""

    def __init__(self, limits: Limits, subject: Subject, kind: Kind) -> None:
        self._limits = limits
        self._subject = subject
        self.kind = kind
        self._recent: dict[str, Bucket] = {}
        self._older: dict[str, Bucket] = {}
        self._version = 0
        self._workers = 1
        self.is_used = False

    def bucket(self, name: str, now: int) -> Bucket | None:
        """Return the bucket of *name*, None if nothing limits it."""
        found = self._recent.get(name)
        if found is not None and found.version == self._version:
            return found
        return self._fetched(name, now)

    def measure(self, workers: int) -> None:
        """Go by the limits as they are now, one part in *workers* of them; each bucket does when it is asked for."""
        self._version += 1
        self._workers = workers
        self.is_used = self._limits.has_rates(self._subject, self.kind)

    def _fetched(self, name: str, now: int) -> Bucket | None:
        quota = self._limits.rate(self._subject, name, self.kind)
        bucket = self._recent.pop(name, None) or self._older.pop(name, None)
        if quota is None:
            return None
        if bucket is None:
            bucket = Bucket(f"{self._subject}-{self.kind}:{name}", quota, self._workers, now)
        bucket.measure(quota, self._workers)
        bucket.version = self._version
        if len(self._recent) >= _MOST_BUCKETS:
            self._older, self._recent = self._recent, {}
        self._recent[name] = bucket
        return bucket


class Limiter:
    """Lets requests through as far as *limits* allow, of which this worker has one part in *workers*. *refused* is
    called with the kind of each request that is not let through. *leases*: somebody takes the active buckets to lease
    tokens for them. *now*: nanoseconds."""

    def __init__(
        self,
        limits: Limits,
        workers: int,
        refused: Callable[[Kind], None] = lambda _: None,
        *,
        leases: bool = False,
        now: Callable[[], int] = monotonic_ns,
    ) -> None:
        self.workers = workers
        self._refused = refused
        self._now = now
        self._shelves = {
            kind: (_Shelf(limits, Subject.TENANT, kind), _Shelf(limits, Subject.PRINCIPAL, kind))
            for kind in Kind
        }
        self._of_resolves = self._shelves[Kind.RESOLVES]
        self._leases = leases
        self._active: dict[Bucket, None] = {}  # asked of since the last `take_active`
        self.limits_resolves = self.is_used = False
        limits.changed = self.measure
        self.measure()

    def share_with(self, workers: int) -> None:
        """Have one part in *workers* from now on."""
        if workers != self.workers:
            self.workers = workers
            self.measure()

    def measure(self) -> None:
        """Go by the limits as they are now."""
        for shelves in self._shelves.values():
            for shelf in shelves:
                shelf.measure(self.workers)
        # The lane asks for it before anything else: where nothing is limited, limits cost nothing.
        self.limits_resolves = any(shelf.is_used for shelf in self._of_resolves)
        self.is_used = any(shelf.is_used for shelves in self._shelves.values() for shelf in shelves)

    def charge(self, kind: Kind, owner: str, tenant: str | None) -> None:
        """Let a request through that *owner* makes for *tenant* (None: for none alone). Raises RateLimited."""
        tenants, principals = self._shelves[kind]
        if tenants.is_used or principals.is_used:
            self._charge_one(tenants, principals, owner, tenant)

    def charge_resolve(self, owner: str, tenant: str) -> None:
        """As `charge`, with fewer steps: the lane's, where something limits resolves."""
        self._charge_one(*self._of_resolves, owner, tenant)

    def charge_each(self, kind: Kind, owner: str, tenants: Iterable[str], refused: int = 0) -> None:
        """Let a batch through that *owner* makes, a request for each of *tenants*, and *refused* ones that they may
        not make: those cost the tenants nothing. All or nothing, as `charge`."""
        of_tenants, of_principals = self._shelves[kind]
        if not (of_tenants.is_used or of_principals.is_used):
            return
        now, costs = self._now(), Counter(tenants)
        charged = [(of_tenants.bucket(name, now), cost) for name, cost in costs.items()]
        charged.append((of_principals.bucket(owner, now), costs.total() + refused))
        due = [(bucket, cost) for bucket, cost in charged if bucket is not None]
        for bucket, cost in due:
            self._check(kind, bucket, cost, now)
        for bucket, cost in due:
            bucket.take(cost, now)

    def check(self, kind: Kind, owner: str) -> None:
        """Raise RateLimited if *owner* has nothing left: before anything is done for a request."""
        principals = self._shelves[kind][1]
        bucket = principals.bucket(owner, now := self._now()) if principals.is_used else None
        if bucket is not None:
            self._check(kind, bucket, 1, now)

    def charge_refused(self, kind: Kind, owner: str, cost: int) -> None:
        """Let *owner* alone pay for a request that was refused; of many at once one may overdraw."""
        principals = self._shelves[kind][1]
        bucket = principals.bucket(owner, now := self._now()) if principals.is_used else None
        if bucket is not None and bucket.has(1, now):
            bucket.take(cost, now)

    def _charge_one(self, tenants: _Shelf, principals: _Shelf, owner: str, tenant: str | None) -> None:
        now = self._now()
        first = tenants.bucket(tenant, now) if tenant is not None and tenants.is_used else None
        second = principals.bucket(owner, now) if principals.is_used else None
        if first is not None:
            self._check(tenants.kind, first, 1, now)
        if second is not None:
            self._check(tenants.kind, second, 1, now)
            second.take(1, now)
        if first is not None:
            first.take(1, now)

    def _check(self, kind: Kind, bucket: Bucket, cost: int, now: int) -> None:
        if self._leases and len(self._active) < _MOST_BUCKETS:
            self._active[bucket] = None
        if not bucket.has(cost, now):
            self._refused(kind)
            raise RateLimited(bucket.name.partition(":")[0], bucket.quota, bucket.wait_s(cost))

    def take_active(self, most: int) -> Collection[Bucket]:
        """Return up to *most* buckets that were asked of since they were returned here last."""
        found = list(self._active)[:most]
        for bucket in found:
            del self._active[bucket]
        return found
