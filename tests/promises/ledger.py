"""What clients did and saw, written down while they did it: the evidence that the oracle judges.

Every request carries an id of its own, which its changes in the log carry too. So the log says of each change
which request made it, and no answer has to be guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass
class Ledger:
    """All that happened in one test. Threads append to its lists without a lock, as lists allow."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    # Answers to reads that told nothing of a route, by status: 503 above all.
    unanswered: list[tuple[int, int]] = field(default_factory=list)

    @property
    def acknowledged(self) -> list[Write]:
        """The writes that were answered with success."""
        return [write for write in self.writes if write.is_acknowledged]
