"""Every error that a call can raise.

ClientError
├── Unreachable             nobody answered, or the connection broke
├── UnexpectedAnswer        somebody answered, but not this API
└── Refused                 the server said no; carries its problem document
    ├── NotFound            404
    ├── Conflict            409, 412; the problem carries the current route
    ├── HistoryGone         410: changes after the given revision are no longer kept
    └── Unavailable         429, 502, 503, 504, and 409 while the same call is worked on: it may succeed later
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ClientError(Exception):
    """The root: whoever catches this catches every failure of a call."""


class Unreachable(ClientError):
    """No answer came from *url*. *may_be_done*: the request may have been received, and carried out."""

    def __init__(self, url: str, reason: str, *, may_be_done: bool) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason
        self.may_be_done = may_be_done


class UnexpectedAnswer(ClientError):
    """An answer that this API does not give: another server, another version, or a proxy's own page."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(f"{url} answered {what}")
        self.url = url
        self.what = what


@dataclass(frozen=True, slots=True)
class FieldError:
    """One broken rule of what was sent."""

    field: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What a problem document (RFC 9457) says. *current* is the route as it is, *index* the operation of a
    batch that failed, *head* where the changes stand, *key_id* the API key that the request made when it was done
    before; each None where it does not apply. *may_be_done*: the server does not know whether the work was done."""

    status: int
    type: str = "about:blank"
    title: str = ""
    detail: str = ""
    correlation_id: str | None = None
    errors: tuple[FieldError, ...] = ()
    current: Mapping[str, Any] | None = None  # Any: JSON values
    index: int | None = None
    head: str | None = None
    key_id: str | None = None
    retry_after_s: float | None = None
    may_be_done: bool = False


class Refused(ClientError):
    """The server did not do it; *problem* says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title or f"HTTP {problem.status}")
        self.problem = problem


class NotFound(Refused):
    """There is no such route, no active one, or no such key."""


class Conflict(Refused):
    """The route is not as the caller thought; `problem.current` is how it is. Or the request has made an API key
    before, `problem.key_id`, whose text cannot be shown again."""


class HistoryGone(Refused):
    """The changes cannot be continued from there; `problem.head` is where they stand."""


class Unavailable(Refused):
    """The server, or a proxy before it, cannot answer now."""


_BY_STATUS: Mapping[int, type[Refused]] = {
    404: NotFound,
    409: Conflict,
    410: HistoryGone,
    412: Conflict,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def refusal(problem: Problem) -> Refused:
    """Return the error that stands for *problem*."""
    if problem.type.endswith(":request-under-way"):
        return Unavailable(problem)
    # This one says that the server has no such call, not that a route is missing.
    if problem.type.endswith(":not-found"):
        return Refused(problem)
    return _BY_STATUS.get(problem.status, Refused)(problem)
