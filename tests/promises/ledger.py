"""What clients did and saw, written down while they did it: the evidence that the oracle judges.

Every request carries an id of its own, which its changes in the log carry too. So the log says of each change
which request made it, and no answer has to be guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from traffic_manager.routing.model import RouteKey

NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What an answer says of one route: that since *revision* it is like this. *is_change*: the answer also
    says that this request made it so; None if the answer leaves that open."""

    revision: int
    key: RouteKey
    url: str | None
    is_active: bool
    is_change: bool | None = True


@dataclass(frozen=True, slots=True)
class Write:
    """One request to change something. Times are monotonic nanoseconds; *status* is NO_ANSWER if the
    connection broke or time was up."""

    request_id: str
    began_ns: int
    ended_ns: int
    status: int
    claims: Sequence[Claim] = ()
    is_outcome_unknown: bool = False

    @property
    def is_acknowledged(self) -> bool:
        """Whether the client may rely on it."""
        return 200 <= self.status < 300

    @property
    def is_refused(self) -> bool:
        """Whether the client may rely on its not being there."""
        return (
            not self.is_acknowledged and not self.is_outcome_unknown and self.status not in (NO_ANSWER, 500)
        )


@dataclass(frozen=True, slots=True)
class Read:
    """One answer to a resolve. *url* None: "no active route". *connection* names the connection, and so one
    worker. *at_least*: the revision of the token that was sent, 0 without one."""

    connection: str
    began_ns: int
    ended_ns: int
    key: RouteKey
    url: str | None
    as_of: int
    is_flagged: bool = False
    is_strong: bool = False
    at_least: int = 0


class Kind(StrEnum):
    """What a request asked for."""

    KNOWN = "a route that is always active"
    UNKNOWN = "a name that never had a route"
    CHANGING = "a route that comes and goes"
    STRONG = "a route as the database has it"
    TOKEN = "a route, not older than a write that was answered"
    WRITE = "a change"
    LIVE = "/health/live"
    READY = "/health/ready"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of an open loop, whatever came of it. *due_ns*: when it had to be sent, which a client that
    waits for earlier answers would not have done. *node* is the index of the node that was asked."""

    kind: Kind
    node: int
    due_ns: int
    ended_ns: int
    status: int
    is_flagged: bool = False
    retry_after_s: int | None = None

    @property
    def took_s(self) -> float:
        """The time that the caller waited since the request was due."""
        return (self.ended_ns - self.due_ns) / 1e9

    @property
    def has_failed(self) -> bool:
        """Whether it went otherwise than where nothing is broken."""
        if self.kind in (Kind.KNOWN, Kind.LIVE, Kind.READY):
            return self.status != 200
        return self.status in (NO_ANSWER, 429) or self.status >= 500


@dataclass
class Ledger:
    """All that happened in one test. Threads append to its lists without a lock, as lists allow."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    # Answers to reads that told nothing of a route, by status: 503 above all.
    unanswered: list[tuple[int, int]] = field(default_factory=list)
    # Every request of a load, those above too, and the probes of health.
    exchanges: list[Exchange] = field(default_factory=list)
    # Answers that hold bytes of a tenant who was not asked for.
    leaks: list[bytes] = field(default_factory=list)

    def add(self, other: Ledger) -> None:
        """Take over all that *other* holds."""
        self.writes += other.writes
        self.reads += other.reads
        self.unanswered += other.unanswered
        self.exchanges += other.exchanges
        self.leaks += other.leaks

    @property
    def acknowledged(self) -> list[Write]:
        """The writes that were answered with success."""
        return [write for write in self.writes if write.is_acknowledged]
