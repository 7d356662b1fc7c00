"""Every error that the project raises on purpose, as one tree.

    TrafficManagerError
    ├── InvalidInput            what was sent breaks a rule; names each field
    ├── RequestRefused          a request that HTTP itself refuses: too large, wrong type
    │   ├── TooManyConnections  as many clients as may are connected
    │   └── TooManyOfAddress    as many clients of one address as may are connected
    ├── Unauthenticated         no credential that is known, whole and in force
    │   └── TokenRefused        a token that is not good; says why, to logs alone
    │       └── SigningKeyUnknown   it names a key that its issuer may have made lately
    ├── RateLimited             more requests than the tenant or the principal may make
    │   └── TooManyFailedSignIns  more wrong credentials than may come from an address
    ├── QuotaExceeded           the tenant has as many routes, or keys, as it may
    ├── Forbidden               the credential does not permit it; says nothing of what is there
    ├── KeyNotFound             no such API key that the caller administers
    ├── KeysUnavailable         no pepper is set, so no key can be made
    ├── RouteNotFound           no such route, said from knowledge
    ├── RouteConflict           create met a different route; carries it
    ├── IdempotencyKeyReused    the idempotency key has named another request
    ├── RequestUnderWay         the same request is being worked on; try again
    ├── PreconditionFailed      If-Match or If-None-Match did not hold; carries the route
    ├── EpochMismatch           a token of another history
    ├── HistoryGone             a position that this history cannot continue from
    ├── BatchFailed             one operation of a batch failed; index and cause
    ├── SourceUnavailable       the database cannot be asked now; try again
    │   ├── Busy                we are full; try again
    │   │   ├── Overloaded      requests wait too long for their turn; this one was refused at once
    │   │   └── TooManyWatchers no more may wait here for changes
    │   ├── IssuerUnavailable   the keys of a token's issuer are not known, so it cannot be checked
    │   ├── NotYetReached       TM-Min-Revision lies in the future
    │   ├── StorageReadOnly     the database takes no writes
    │   ├── StorageFull         the database's disk is full
    │   └── OutcomeUnknown      the connection broke during COMMIT
    ├── RevisionGap             the log misses a revision: tampering or a bug
    └── StartRefused            the server cannot start; says what to change
        ├── SettingsInvalid     every wrong setting, by variable name
        └── SchemaMismatch      the tables are not of this version

Facts are attributes; messages are for the person who must act. HTTP knows them in `api/problems.py` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traffic_manager.routing.model import Position, Route, RouteKey


class TrafficManagerError(Exception):
    """The root: whoever catches this catches everything that is expected to go wrong. *as_of*: the position
    at which it was decided, where that is known."""

    as_of: Position | None = None


@dataclass(frozen=True)
class FieldProblem:
    """One broken rule: the *field* by its name, a stable *code* for programs, *detail* for people. *pointer*
    says where in a JSON body (RFC 6901)."""

    field: str
    code: str
    detail: str
    pointer: str | None = None


class InvalidInput(TrafficManagerError):
    """What was sent breaks the rules in *problems*; nothing was done."""

    def __init__(self, *problems: FieldProblem) -> None:
        super().__init__("; ".join(f"{p.field}: {p.detail}" for p in problems))
        self.problems = problems


class RequestRefused(TrafficManagerError):
    """HTTP itself refuses the request, with *status*; *code* names the reason for programs."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class TooManyConnections(RequestRefused):
    """As many connections as may are open at this worker."""

    retry_after_s = range(1, 4)

    def __init__(self) -> None:
        super().__init__(
            503, "too-many-connections", "as many clients as may are connected (API_MAX_CONNECTIONS)"
        )


class TooManyOfAddress(RequestRefused):
    """As many connections as may come from one address are open at this worker."""

    retry_after_s = range(1, 4)

    def __init__(self) -> None:
        super().__init__(
            429,
            "too-many-connections-of-address",
            "as many clients of your address as may are connected (API_MAX_CONNECTIONS_PER_ADDRESS)",
        )


class Unauthenticated(TrafficManagerError):
    """No credential was shown, or none that is in force. It never says which: who guesses learns nothing."""

    def __init__(self) -> None:
        super().__init__("a valid credential is needed")


class TokenRefused(Unauthenticated):
    """A token that is not good, for a *reason* that its sender is not told."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class SigningKeyUnknown(TokenRefused):
    """A token names a key that *issuer*, as we call it, has not published as far as we know: ask it, look again."""

    def __init__(self, issuer: str) -> None:
        super().__init__("names a key that its issuer does not have")
        self.issuer = issuer


class RateLimited(TrafficManagerError):
    """More requests came than *policy* (`tenant-writes`, for example) lets through, *quota* a second. Nothing was
    done; a retry after *retry_after_s* seconds may be let through."""

    window_s = 1

    def __init__(self, policy: str, quota: int, retry_after_s: int) -> None:
        subject, _, kind = policy.partition("-")
        super().__init__(f"this {subject} may make {quota} {kind} a second; try again in {retry_after_s} s")
        self.policy = policy
        self.quota = quota
        self.retry_after_s = retry_after_s


class TooManyFailedSignIns(RateLimited):
    """More wrong credentials came from an address in a minute than may."""

    window_s = 60

    def __init__(self, quota: int, retry_after_s: int) -> None:
        super().__init__("failed-sign-ins", quota, retry_after_s)
        self.args = (f"too many wrong credentials from this address; try again in {retry_after_s} s",)


class QuotaExceeded(TrafficManagerError):
    """The tenant has as many *things* (`routes` or `keys`) as it may, or would have more."""

    def __init__(self, tenant: str, things: str, quota: int) -> None:
        super().__init__(f"tenant: {tenant} may have {quota} {things}, and has them")
        self.things = things
        self.quota = quota


class Forbidden(TrafficManagerError):
    """The credential does not permit it. Decided on the names alone, so it is the same whatever exists."""

    def __init__(self) -> None:
        super().__init__("the credential does not permit this")


class KeyNotFound(TrafficManagerError):
    """No API key of this id is the caller's to administer."""

    def __init__(self) -> None:
        super().__init__("no such key")


class KeyIssuedBefore(TrafficManagerError):
    """The same request was done before and made the key *key_id*, whose text was shown then and is kept nowhere."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"this request was done before: it made the key {key_id}, whose text was shown then and is kept nowhere; "
            "if it was lost, revoke that key and ask with another Idempotency-Key"
        )
        self.key_id = key_id


class KeysUnavailable(TrafficManagerError):
    """Keys can be neither made nor checked here."""

    def __init__(self) -> None:
        super().__init__("AUTH_PEPPER is not set")


class RouteNotFound(TrafficManagerError):
    """No (active) route had this key at revision *as_of*."""

    def __init__(self, key: RouteKey) -> None:
        super().__init__(f"no route {key}")
        self.key = key


class RouteConflict(TrafficManagerError):
    """Create met the route *current*, which differs."""

    def __init__(self, current: Route) -> None:
        super().__init__(f"route {current.key} exists already with another URL or state")
        self.current = current


class IdempotencyKeyReused(TrafficManagerError):
    """The caller has given this idempotency key to another request before."""

    def __init__(self) -> None:
        super().__init__("this idempotency key was given to another request")


class RequestUnderWay(TrafficManagerError):
    """A request with this idempotency key is being worked on; a later attempt is told what it came to."""

    retry_after_s = range(1, 4)

    def __init__(self) -> None:
        super().__init__("a request with this idempotency key is being worked on")


class PreconditionFailed(TrafficManagerError):
    """A precondition did not hold; *current* is the route, None where there is none."""

    def __init__(self, key: RouteKey, current: Route | None) -> None:
        state = f"is at revision {current.revision}" if current else "does not exist"
        super().__init__(f"precondition failed: route {key} {state}")
        self.key = key
        self.current = current


class EpochMismatch(TrafficManagerError):
    """A revision of another history was given back to us; start again without it."""

    def __init__(self, given: str, epoch8: str) -> None:
        super().__init__(f"revision {given} belongs to another history; this one is {epoch8}")
        self.given = given


class HistoryGone(TrafficManagerError):
    """Changes after the given position cannot be served; read the routes again, then follow from *head*."""

    def __init__(self, given: str, head: str, reason: str) -> None:
        super().__init__(
            f"cannot continue after {given}: {reason}; read the routes again and follow from {head}"
        )
        self.given = given
        self.head = head


class BatchFailed(TrafficManagerError):
    """Operation *index* (from 0) failed with *cause*; nothing of its batch was done."""

    def __init__(self, index: int, cause: TrafficManagerError) -> None:
        super().__init__(f"operation {index}: {cause}")
        self.index = index
        self.cause = cause


class SourceUnavailable(TrafficManagerError):
    """The database cannot answer now. Nothing was written; a retry after *retry_after_s* may succeed: clients are
    told different ones of these seconds, so that they do not come back together."""

    retry_after_s = range(1, 4)

    def __init__(self, reason: str = "the database cannot be reached") -> None:
        super().__init__(reason)
        self.reason = reason


class Busy(SourceUnavailable):
    """The work could not start in time because too much other work was before it."""


class Overloaded(Busy):
    """Requests wait too long for their turn here, and those of this kind are refused before others."""

    def __init__(self) -> None:
        super().__init__("requests wait too long here, and this one can wait")


class TooManyWatchers(Busy):
    """As many wait for changes at this worker as may: of all, or of *owner* alone."""

    retry_after_s = range(5, 8)

    def __init__(self, limit: int, owner: str | None = None) -> None:
        whose = "WATCH_LIMIT" if owner is None else f"of {owner} alone: WATCH_LIMIT_PER_PRINCIPAL"
        super().__init__(f"{limit} wait for changes at this worker already ({whose}); try again")


class IssuerUnavailable(SourceUnavailable):
    """The keys of *issuer*, as we call it, are not known here, so its tokens can be neither taken nor refused."""

    def __init__(self, issuer: str) -> None:
        super().__init__("the keys of the token's issuer are not known yet")
        self.issuer = issuer


class NotYetReached(SourceUnavailable):
    """The revision asked for by TM-Min-Revision does not exist yet."""

    retry_after_s = range(1, 2)


class StorageReadOnly(SourceUnavailable):
    """The database refuses writes, reads go on."""

    retry_after_s = range(5, 6)


class StorageFull(SourceUnavailable):
    """The database's disk is full, reads go on."""

    retry_after_s = range(30, 31)


class OutcomeUnknown(SourceUnavailable):
    """The connection broke while the commit was under way: the change may or may not have been made."""


class RevisionGap(TrafficManagerError):
    """The log has *found* where *expected* must follow."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the log misses revision {expected}: it goes on with {found}")
        self.expected = expected
        self.found = found


class StartRefused(TrafficManagerError):
    """The server or command cannot start; the message says what to change."""


class SettingsInvalid(StartRefused):
    """All wrong settings at once: *problems* as `VARIABLE: what is wrong`, never with a value of a secret."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class SchemaMismatch(StartRefused):
    """The tables are missing or of another version than this program's."""
