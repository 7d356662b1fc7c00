"""The words of the domain: names, keys, URLs, routes, changes and positions in the log.

Everything that comes in from outside becomes one of these types or an `InvalidInput`; nothing is repaired.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, NewType, Self

from traffic_manager.errors import FieldProblem, InvalidInput

TenantName = NewType("TenantName", str)
ServiceName = NewType("ServiceName", str)
EnvName = NewType("EnvName", str)
VersionName = NewType("VersionName", str)

NAME_FIELDS = ("tenant", "service", "env", "version")
NAME_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9._~+-]{0,126}[A-Za-z0-9])?"
NAME_MAX_CHARACTERS = 128
NAME_RULE = (
    f"1 to {NAME_MAX_CHARACTERS} ASCII letters, digits and . _ ~ + -, "
    "beginning and ending with a letter or digit, without '..'"
)

_is_name = re.compile(NAME_PATTERN, re.ASCII).fullmatch
_are_names = re.compile("/".join([NAME_PATTERN] * len(NAME_FIELDS)), re.ASCII).fullmatch


class RouteKey(NamedTuple):
    """The four names that identify a route. Its text `tenant/service/env/version` is unambiguous,
    because no name can hold a slash."""

    tenant: TenantName
    service: ServiceName
    env: EnvName
    version: VersionName

    @classmethod
    def of(cls, tenant: str, service: str, env: str, version: str) -> Self:
        """Return the key. Raises InvalidInput that names every ill-formed name."""
        names = (tenant, service, env, version)
        text = "/".join(names)
        if not _are_names(text) or ".." in text:
            problems = (name_problem(field, name) for field, name in zip(NAME_FIELDS, names, strict=True))
            raise InvalidInput(*filter(None, problems))
        return cls.known(*names)

    @classmethod
    def known(cls, tenant: str, service: str, env: str, version: str) -> Self:
        """Return the key of names that were checked before, such as a row's."""
        # As `cls(TenantName(tenant), ...)`, in a third of the time: each change takes it several times.
        return tuple.__new__(cls, (tenant, service, env, version))

    def __str__(self) -> str:
        return "/".join(self)


def name_problem(field: str, name: str) -> FieldProblem | None:
    """Return what is wrong with *name*, None if nothing is. The input is never echoed."""
    if _is_name(name) and ".." not in name:
        return None
    return FieldProblem(field, "invalid-name", f"must be {NAME_RULE}")


class Action(StrEnum):
    """What a change did to its route."""

    CREATED = "created"
    UPDATED = "updated"
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    DELETED = "deleted"


class Route(NamedTuple):
    """A route as it was at some revision. *revision* is that of its last change; times are
    microseconds since 1970, UTC."""

    key: RouteKey
    url: str
    is_active: bool
    revision: int
    created_at: int
    updated_at: int


class Change(NamedTuple):
    """One numbered change. *url* and *is_active* are the state after it (None and False after a deletion),
    *previous* the state before it as JSON text, None for a creation. *batch_end* is the revision of the last
    change that became visible together with this one. *actor* made it, from *address*, and gave the *reason*; None:
    it is not known."""

    revision: int
    batch_end: int
    key: RouteKey
    action: Action
    url: str | None
    is_active: bool
    previous: str | None
    actor: str
    reason: str | None
    correlation_id: str
    occurred_at: int
    address: str | None = None

    @property
    def was_active(self) -> bool:
        """True if the route was active before."""
        return self.previous is not None and bool(json.loads(self.previous)["is_active"])


class Trace(NamedTuple):
    """Which span something is a part of, in the words of W3C Trace Context."""

    parent: str
    state: str | None = None


class Position(NamedTuple):
    """A place in a history, written `<epoch8>.<revision>`: the first 8 hex digits of the epoch, then the
    revision."""

    epoch8: str
    revision: int

    @classmethod
    def parse(cls, text: str, field: str) -> Self:
        """Return the position. Raises InvalidInput for *field* if *text* is not of that form."""
        match = _is_position(text)
        if not match:
            raise InvalidInput(FieldProblem(field, "invalid-revision", "must be <epoch8>.<revision>"))
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch8}.{self.revision}"


_is_position = re.compile(r"([0-9a-f]{8})\.(0|[1-9][0-9]{0,17})", re.ASCII).fullmatch

_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(microseconds: int) -> str:
    """Return the time as RFC 3339 text in UTC with six decimals."""
    second, fraction = divmod(microseconds, 1_000_000)
    return f"{_to_the_second(second)}.{fraction:06d}Z"


def microseconds_of(time: datetime) -> int:
    """Return *time*, which knows its zone, in microseconds since 1970."""
    return (time - _EPOCH_START) // timedelta(microseconds=1)


# Changes come many in a second.
@lru_cache(maxsize=256)
def _to_the_second(seconds: int) -> str:
    return (_EPOCH_START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
