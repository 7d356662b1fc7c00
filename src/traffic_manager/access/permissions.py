"""What each role may do, and the one decision that every way in asks: may this principal do that there?

`ROLES_OF` is the only table of it. The API, the lanes, docs/security.md and the test matrix all come from it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Self

from traffic_manager.errors import Forbidden
from traffic_manager.routing.model import name_problem
from traffic_manager.routing.ports import NameFilter, Place

ANY = "*"
# Between an owner of keys and the tenants that these hold in, where they are counted: no name holds it.
IN_TENANTS = "@"


class Role(StrEnum):
    """What a grant lets its holder be."""

    RESOLVER = "resolver"
    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"
    MONITOR = "monitor"  # beside the others, of which each may all that the one before it may


class Operation(StrEnum):
    """What a caller can want. The writing ones are named as the verbs of `routing`."""

    RESOLVE = "resolve"
    LIST = "list"
    GET = "get"
    HISTORY = "history"
    CHANGES = "changes"
    CREATE = "create"
    PUT = "put"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    DELETE = "delete"
    LIST_KEYS = "list-keys"
    CREATE_KEY = "create-key"
    ROTATE_KEY = "rotate-key"
    REVOKE_KEY = "revoke-key"
    LIST_LIMITS = "list-limits"
    SET_LIMIT = "set-limit"
    READ_METRICS = "read-metrics"


_ADMINS = frozenset({Role.ADMIN})
_EDITORS = _ADMINS | {Role.EDITOR}
_VIEWERS = _EDITORS | {Role.VIEWER}
_RESOLVERS = _VIEWERS | {Role.RESOLVER}
_MONITORS = _VIEWERS | {Role.MONITOR}

ROLES_OF: Mapping[Operation, frozenset[Role]] = {
    Operation.RESOLVE: _RESOLVERS,
    Operation.LIST: _VIEWERS,
    Operation.GET: _VIEWERS,
    Operation.HISTORY: _VIEWERS,
    Operation.CHANGES: _VIEWERS,
    Operation.CREATE: _EDITORS,
    Operation.PUT: _EDITORS,
    Operation.ACTIVATE: _EDITORS,
    Operation.DEACTIVATE: _EDITORS,
    Operation.DELETE: _EDITORS,
    Operation.LIST_KEYS: _ADMINS,
    Operation.CREATE_KEY: _ADMINS,
    Operation.ROTATE_KEY: _ADMINS,
    Operation.REVOKE_KEY: _ADMINS,
    Operation.LIST_LIMITS: _ADMINS,
    Operation.SET_LIMIT: _ADMINS,
    Operation.READ_METRICS: _MONITORS,
}

# These belong to no tenant, so they need a grant for any tenant in any environment.
OF_ALL_TENANTS = frozenset({Operation.READ_METRICS, Operation.LIST_LIMITS, Operation.SET_LIMIT})


class Grant(NamedTuple):
    """A role in a tenant's environment; None: in any."""

    role: Role
    tenant: str | None
    env: str | None

    @property
    def place(self) -> Place:
        """Where it holds."""
        return self.tenant, self.env

    def written(self) -> list[str]:
        """Return it as rows and answers have it: role, tenant, environment, `*` for any."""
        return [self.role.value, self.tenant or ANY, self.env or ANY]

    @classmethod
    def known(cls, role: str, tenant: str, env: str) -> Self:
        """Return the grant of checked words. Raises ValueError for a role that does not exist."""
        return cls(Role(role), None if tenant == ANY else tenant, None if env == ANY else env)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the grant that settings and commands write as `editor:team-a/prod`. Raises ValueError."""
        role, _, place = text.partition(":")
        tenant, _, env = place.partition("/")
        if role not in list(Role) or any(n != ANY and name_problem("name", n) for n in (tenant, env)):
            raise ValueError("must be ROLE:TENANT/ENV, such as editor:team-a/prod or viewer:*/*")
        return cls.known(role, tenant, env)


class CredentialKind(StrEnum):
    """What a principal has shown."""

    KEY = "key"
    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105 a kind
    NONE = "none"  # nobody is asked


@dataclass(frozen=True)
class Principal:
    """Somebody who asks: *name* is what changes say of who made them, *key_id* the API key that was shown, *sources*
    where each of the grants comes from, *expires_at* when the credential ends (seconds since 1970; None: unknown),
    *signer* the issuer of a token and the name of the key that signed it."""

    name: str
    grants: tuple[Grant, ...]
    key_id: str | None = None
    credential: CredentialKind = CredentialKind.KEY
    sources: tuple[str, ...] = ()
    expires_at: float | None = None
    signer: tuple[str, str] | None = None
    # Where it may resolve: beside the others, because the lane asks this of every request.
    resolvable: frozenset[Place] = field(init=False, repr=False, compare=False)
    _places: Mapping[Operation, frozenset[Place]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = _places_of(self.grants)
        object.__setattr__(self, "_places", places)  # frozen for everybody else
        object.__setattr__(self, "resolvable", places[Operation.RESOLVE])

    @cached_property
    def counted_as(self) -> str:
        """As whom its requests are counted: all keys of an owner in the same tenants together, for whoever
        administers one tenant may name any owner, and must not use up what those of others have. Without a key the
        principal."""
        if not self.key_id:
            return self.name
        owner, tenants = self.name.rpartition("/")[0], {grant.tenant for grant in self.grants}
        return owner if None in tenants else f"{owner}{IN_TENANTS}{','.join(sorted(map(str, tenants)))}"

    @cached_property
    def written(self) -> str:
        """Its grants as a row keeps them."""
        return as_text(self.grants)

    def may(self, operation: Operation, tenant: str | None, env: str | None) -> bool:
        """Return whether *operation* is permitted in that tenant's environment (None: in all of them)."""
        return covers(self._places[operation], tenant, env)

    def check(self, operation: Operation, tenant: str | None, env: str | None) -> None:
        """Raise Forbidden unless *operation* is permitted there."""
        if not self.may(operation, tenant, env):
            raise Forbidden

    def narrowed(self, operation: Operation, wanted: NameFilter) -> NameFilter:
        """Return *wanted*, limited to where *operation* is permitted. Raises Forbidden if that is nowhere."""
        limited = wanted.limited_to(self._places[operation])
        if not limited.patterns:
            raise Forbidden
        return limited

    def check_anywhere(self, operation: Operation) -> None:
        """Raise Forbidden if *operation* is permitted nowhere at all."""
        if not self._places[operation]:
            raise Forbidden


@lru_cache(4096)  # 50 µs; many keys have the same grants, and all are asked for theirs again when one changes
def _places_of(grants: tuple[Grant, ...]) -> Mapping[Operation, frozenset[Place]]:
    return {op: frozenset(g.place for g in grants if g.role in ROLES_OF[op]) for op in Operation}


def covers(places: Container[Place], tenant: str | None, env: str | None) -> bool:
    """Return whether *places* hold that tenant's environment (None: all of them). This is the decision; it looks at
    the names alone, never at what is there."""
    return (
        (None, None) in places or (tenant, None) in places or (tenant, env) in places or (None, env) in places
    )


def operations_of(grant: Grant) -> list[Operation]:
    """Return what *grant* lets its holder do, in the order of the table."""
    return [
        operation
        for operation in Operation
        if grant.role in ROLES_OF[operation]
        and (operation not in OF_ALL_TENANTS or grant.place == (None, None))
    ]


def as_text(grants: Iterable[Grant]) -> str:
    """Return *grants* as a row keeps them."""
    return json.dumps([grant.written() for grant in grants], separators=(",", ":"))


def grants_of(text: str) -> tuple[Grant, ...]:
    """Return the grants of a row. One that this version does not understand grants nothing."""
    written: list[Any] = json.loads(text)  # Any: JSON values
    roles = {role.value for role in Role}
    return tuple(Grant.known(*grant) for grant in written if grant[0] in roles)


def grants_in(written: Any, where: str) -> tuple[Grant, ...]:  # Any: a JSON value
    """Return the grants that a file of the server's lists. Raises ValueError that begins with *where*."""
    if not isinstance(written, list) or not all(isinstance(grant, str) for grant in written):
        raise ValueError(f"{where}: must be a list of grants such as editor:team-a/prod")
    try:
        return tuple(dict.fromkeys(Grant.parse(grant) for grant in written))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    """Return a JSON object. Raises ValueError if it says something twice: nobody could tell which of them counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("says something twice")
    return found
