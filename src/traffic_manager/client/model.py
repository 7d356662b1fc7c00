"""What the API's documents hold, as frozen types. Fields that a newer server adds are passed over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

Key = tuple[str, str, str, str]  # tenant, service, env, version
Json = dict[str, Any]  # Any: JSON values

T = TypeVar("T")

_is_position = re.compile(r"([0-9a-f]{8})\.([0-9]{1,18})", re.ASCII).fullmatch


class Position(NamedTuple):
    """A place in a history, written `<epoch8>.<revision>`, as in the header `TM-Revision`."""

    epoch8: str
    revision: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position. Raises ValueError if *text* is not of that form."""
        match = _is_position(text)
        if not match:
            raise ValueError("must be <epoch8>.<revision>")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch8}.{self.revision}"


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a call answered: *value*, and what its headers say. *position* is the revision that a read was
    true at or that a write made; *etag* stands for `If-Match`; *age_s* is set only if the answer may be
    stale."""

    value: T
    status: int
    position: Position | None = None
    etag: str | None = None
    age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which routes or changes are asked for; None means any."""

    tenant: str | None = None
    service: str | None = None
    env: str | None = None
    version: str | None = None

    def params(self) -> dict[str, str]:
        """Return the query parameters."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which URL serves the four names now; *revision* is the route's."""

    tenant: str
    service: str
    env: str
    version: str
    url: str
    revision: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in a tenant's environment, `*` for any, and what it permits there."""

    role: str
    tenant: str
    env: str
    operations: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.role}:{self.tenant}/{self.env}"


@dataclass(frozen=True, slots=True)
class GivenGrant:
    """A grant of the caller's own: a role in a tenant's environment, what it permits there, and its *source*."""

    role: str
    tenant: str
    env: str
    operations: Sequence[str]
    source: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; *key* is its text, which only the answer that made it has. Times are RFC 3339 text in UTC."""

    id: str
    owner: str
    grants: Sequence[Grant]
    state: str
    created_at: str
    created_by: str
    expires_at: str
    revoked_at: str | None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A page of keys. *next_page_token* is None on the last."""

    keys: Sequence[ApiKey]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class Limit:
    """How much a `tenant` or a `principal` may: requests a second, and how many routes and keys; None: as the
    server's settings say."""

    subject: str
    name: str
    resolves: int | None = None
    writes: int | None = None
    lists: int | None = None
    routes: int | None = None
    keys: int | None = None


@dataclass(frozen=True, slots=True)
class LimitPage:
    """A page of limits. *next_page_token* is None on the last."""

    limits: Sequence[Limit]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the caller is at the server, what they may do where, and why."""

    name: str
    credential: str
    key_id: str | None
    expires_at: str | None
    auth_mode: str
    grants: Sequence[GivenGrant]


@dataclass(frozen=True, slots=True)
class ResolveResult:
    """What became of one key of several: *status* 200, or 404 with None for *url* and *revision* and the *code* that
    says why; 403 if it may not be resolved."""

    status: int
    tenant: str
    service: str
    env: str
    version: str
    url: str | None
    revision: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """A route; times are RFC 3339 text in UTC."""

    tenant: str
    service: str
    env: str
    version: str
    url: str
    is_active: bool
    revision: int
    created_at: str
    updated_at: str

    @property
    def key(self) -> Key:
        """The four names."""
        return self.tenant, self.service, self.env, self.version


@dataclass(frozen=True, slots=True)
class Change:
    """One numbered change. *url* and *is_active* are the state after it, *previous* the state before.
    *batch_end* is the revision of the last change of the same batch. *actor* made it, from *address*, and gave the
    *reason*; None: not known."""

    revision: int
    batch_end: int
    action: str
    tenant: str
    service: str
    env: str
    version: str
    url: str | None
    is_active: bool
    previous: Json | None
    actor: str | None
    correlation_id: str | None
    occurred_at: str
    address: str | None = None
    reason: str | None = None

    @property
    def key(self) -> Key:
        """The four names."""
        return self.tenant, self.service, self.env, self.version


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a stream: its *kind* (`change`, `progress`, `snapshot`, `route`, `snapshot-end`, `end`), the
    *position* from which the stream can be gone on after it, None where it cannot, and its *document*. *retry_ms*:
    after an `end`, come back so much later."""

    kind: str
    position: Position | None
    document: Json
    retry_ms: int = 0

    @property
    def change(self) -> Change:
        """The change that a `change` tells. Raises ValueError if it is none."""
        return read(Change, self.document)


@dataclass(frozen=True, slots=True)
class RoutePage:
    """Routes in key order; *next_page_token* is None on the last page."""

    routes: Sequence[Route]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Changes of one route, the newest first. *truncated*: older ones are no longer kept."""

    changes: Sequence[Change]
    next_page_token: str | None
    truncated: bool


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes in order. *next_after* continues; it moves on even where a filter let no change through."""

    changes: Sequence[Change]
    head: Position
    next_after: Position


class Operation(TypedDict, total=False):
    """One operation of a batch."""

    operation: str
    tenant: str
    service: str
    env: str
    version: str
    url: str
    is_active: bool
    if_match: str


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What one operation did. *action* is None if nothing changed."""

    changed: bool
    action: str | None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What each operation did, in the order sent."""

    results: Sequence[OperationResult]


@dataclass(frozen=True, slots=True)
class MirrorState:
    """Where the memory of one *worker* stands, of so many *workers*; *chain* is the digest there, in hex."""

    worker: int
    workers: int
    epoch: str
    revision: int
    chain: str
    is_complete: bool
    routes: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the server takes work, and its checks: by name, each with a status and a message."""

    is_ready: bool
    document: Json

    @property
    def checks(self) -> Mapping[str, Json]:
        """The checks by name."""
        checks = self.document.get("checks")
        return checks if isinstance(checks, dict) else {}


def read(kind: type[T], document: Any) -> T:  # Any: JSON values
    """Return *document* as *kind*. Raises ValueError if it is not an object, or lacks a field that has no default:
    those that have one do not come from every server."""
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    names: Mapping[str, bool] = _field_names(kind)  # type: ignore[arg-type]  # mypy: a type[T] is hashable
    try:
        return kind(
            **{name: document[name] for name, is_needed in names.items() if is_needed or name in document}
        )
    except KeyError as error:
        raise ValueError(f"an object without {error.args[0]!r}") from None


@cache
def _field_names(kind: Any) -> Mapping[str, bool]:  # Any: a dataclass, for which there is no public type
    """Return the names of the fields, and which of them must be there."""
    return {field.name: field.default is MISSING for field in fields(kind)}


def read_all(kind: type[T], documents: Any) -> tuple[T, ...]:  # Any: JSON values
    """Return *documents* as *kind* each. Raises ValueError as `read` does."""
    if not isinstance(documents, list):
        raise ValueError("no JSON array")
    return tuple(read(kind, document) for document in documents)
