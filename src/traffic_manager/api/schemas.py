"""The shapes of bodies and answers, as the OpenAPI description shows them.

Requests are read strictly: no unknown field, no conversion. Grammar is checked by `routing`, so that every way in
gives the same errors; the patterns here only describe it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from traffic_manager.access.permissions import CredentialKind
from traffic_manager.routing import model
from traffic_manager.routing.model import NAME_MAX_CHARACTERS, Action
from traffic_manager.routing.operations import Verb
from traffic_manager.routing.urls import URL_MAX_CHARACTERS

# All that a pattern can say of one: neither user name nor fragment, no character outside RFC 3986.
_URL_CHARACTERS = r"A-Za-z0-9._~!$&'()*+,;=:%\[\]-"
_URL_PATTERN = rf"^[a-z][a-z0-9+.-]*://[{_URL_CHARACTERS}]+([/?][@/?{_URL_CHARACTERS}]*)?$"
TAGS_PATTERN = r'\*|(W/)?"[!#-+.-~]*"(, (W/)?"[!#-+.-~]*")*'
MAX_OPERATIONS = 1000
MAX_KEYS = 1000
MAX_GRANTS = 32

# With the rule that `routing` has in words.
NAME_PATTERN = rf"(?!.*\.\.){model.NAME_PATTERN}"
_NAME_SCHEMA: dict[str, Any] = {  # Any: a JSON schema
    "pattern": f"^{NAME_PATTERN}$",
    "minLength": 1,
    "maxLength": NAME_MAX_CHARACTERS,
}


def _name(example: str, description: str) -> Any:  # Any: pydantic's field marker
    return Field(description=description, examples=[example], json_schema_extra=_NAME_SCHEMA)


Tenant = Annotated[str, _name("team-a", "Who owns the service.")]
Service = Annotated[str, _name("payments", "What the tenant runs.")]
Env = Annotated[str, _name("prod", "The environment it runs in.")]
Version = Annotated[str, _name("v2", "The version of the service there.")]
Url = Annotated[
    str,
    Field(
        description="Where that version is served: http or https, without user name or fragment.",
        examples=["https://payments.example.com/v2"],
        json_schema_extra={"maxLength": URL_MAX_CHARACTERS, "pattern": _URL_PATTERN},
    ),
]
RevisionNumber = Annotated[
    int, Field(ge=0, description="A number in the one order of all changes.", examples=[42])
]
Time = Annotated[str, Field(description="RFC 3339, UTC.", examples=["2026-11-23T12:00:00.000000Z"])]
PositionToken = Annotated[
    str, Field(description="`<epoch8>.<revision>`: a place in this history.", examples=["4be1f0a2.42"])
]


class Request(BaseModel):
    """A body that callers send."""

    model_config = ConfigDict(extra="forbid", strict=True)


class KeyBody(Request):
    """The four names that identify a route."""

    tenant: Tenant
    service: Service
    env: Env
    version: Version


class RouteBody(KeyBody):
    """A route to create."""

    url: Url


class PutBody(Request):
    """What a route shall be."""

    url: Url
    is_active: bool | None = Field(None, description="Absent: as it is, or true for a new route.")


class OperationBody(KeyBody):
    """One operation of a batch."""

    operation: Annotated[
        Literal["create", "put", "activate", "deactivate", "delete"], Field(examples=["put"])
    ]
    url: Url | None = Field(None, description="For `create` and `put`.")
    is_active: bool | None = Field(None, description="For `put`.")
    if_match: str | None = Field(
        None,
        description="The route must have this ETag, or exist for `*`.",
        examples=['"4be1f0a2.42"'],
        json_schema_extra={"pattern": f"^({TAGS_PATTERN})$"},
    )

    @property
    def verb(self) -> Verb:
        """The operation as the rules name it."""
        return Verb(self.operation)


class BatchBody(Request):
    """Operations that all take effect together, or none."""

    operations: Annotated[list[OperationBody], Field(min_length=1, max_length=MAX_OPERATIONS)]
    dry_run: bool = Field(False, description="Say what would happen, and write nothing.")


class KeysBody(Request):
    """Keys to resolve."""

    keys: Annotated[list[KeyBody], Field(min_length=1, max_length=MAX_KEYS)]


class ResolveAnswer(BaseModel):
    """The URL that serves a version now. `revision` is the route's own, as in its ETag."""

    tenant: Tenant
    service: Service
    env: Env
    version: Version
    url: Url
    revision: RevisionNumber


class ResolveResult(BaseModel):
    """What became of one key. With status 404 there is no active route, with 403 the caller may not resolve it
    (whether there is one or not): `url` and `revision` are null then, and `code` says so as the problem of a single
    resolve would."""

    status: Literal[200, 403, 404]
    tenant: Tenant
    service: Service
    env: Env
    version: Version
    url: Url | None
    revision: RevisionNumber | None
    code: Literal["forbidden", "route-not-found"] | None


class ResolveBatchAnswer(BaseModel):
    """What each key resolves to, in the order asked for, all true at one revision."""

    results: list[ResolveResult]
    as_of: PositionToken


class RouteAnswer(BaseModel):
    """A route. `revision` is that of its last change."""

    tenant: Tenant
    service: Service
    env: Env
    version: Version
    url: Url
    is_active: bool
    revision: RevisionNumber
    created_at: Time
    updated_at: Time


class RoutesAnswer(BaseModel):
    """A page of routes in the order of their names."""

    routes: list[RouteAnswer]
    next_page_token: str | None = Field(description="For the next page; null on the last.")


class PreviousState(BaseModel):
    """What a route was before a change."""

    url: Url
    is_active: bool
    revision: RevisionNumber


class ChangeAnswer(BaseModel):
    """One change: `url` and `is_active` as they were after it (null and false after a deletion)."""

    revision: RevisionNumber
    batch_end: Annotated[
        int, Field(ge=0, description="The revision of the last change of the same batch.", examples=[42])
    ]
    action: Action
    tenant: Tenant
    service: Service
    env: Env
    version: Version
    url: Url | None
    is_active: bool
    previous: PreviousState | None
    actor: str = Field(examples=["anonymous"])
    address: str | None = Field(description="From where it was asked for; null: not known.")
    reason: str | None = Field(description="Why, as `TM-Reason` said; null: nothing was said.")
    correlation_id: str
    occurred_at: Time


class HistoryAnswer(BaseModel):
    """A page of a route's changes, the newest first. `truncated`: older ones are no longer kept."""

    changes: list[ChangeAnswer]
    next_page_token: str | None
    truncated: bool


class ChangesAnswer(BaseModel):
    """Changes in their order. Go on with `after=next_after`; it moves on even if the filter matched nothing."""

    changes: list[ChangeAnswer]
    head: PositionToken
    next_after: PositionToken
    epoch: str = Field(description="This history's id.", examples=["4be1f0a2c3d44e5f8a9b0c1d2e3f4a5b"])


class OperationResult(BaseModel):
    """What one operation of a batch came to. `action` is null where nothing had to change."""

    operation: Literal["create", "put", "activate", "deactivate", "delete"]
    status: Literal[200, 201, 204]
    changed: bool
    action: Action | None
    revision: RevisionNumber
    route: RouteAnswer | None


class BatchAnswer(BaseModel):
    """What a batch came to. `revision` is the head after it."""

    results: list[OperationResult]
    revision: RevisionNumber
    dry_run: bool


KeyId = Annotated[str, Field(description="The public part of a key.", examples=["3fPq9ZxW1kLm"])]
GrantPlace = Annotated[
    str,
    Field(
        description="A name, or `*` for any.",
        examples=["team-a"],
        json_schema_extra={"pattern": rf"^(\*|{NAME_PATTERN})$"},
    ),
]


class GrantBody(Request):
    """A role where it holds."""

    role: Annotated[Literal["resolver", "viewer", "editor", "admin", "monitor"], Field(examples=["editor"])]
    tenant: GrantPlace = "*"
    env: GrantPlace = "*"


class NewKeyBody(Request):
    """A key to make."""

    owner: Annotated[str, _name("ci-team-a", "Who will hold it; changes say so.")]
    grants: Annotated[list[GrantBody], Field(min_length=1, max_length=MAX_GRANTS)]
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] = 365


class RotationBody(Request):
    """How to replace a key."""

    overlap_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = Field(
        86_400, description="For how long the old one stays in force, if it does not end sooner."
    )
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] = 365


class GrantAnswer(BaseModel):
    """A role where it holds, and what it permits there."""

    role: str = Field(examples=["editor"])
    tenant: GrantPlace
    env: GrantPlace
    operations: list[str] = Field(examples=[["resolve", "put"]])


class KeyAnswer(BaseModel):
    """A key, without its secret. `state` is `live`, `expired` or `revoked`."""

    id: KeyId
    owner: str = Field(examples=["ci-team-a"])
    grants: list[GrantAnswer]
    state: Literal["live", "expired", "revoked"]
    created_at: Time
    created_by: str = Field(examples=["anonymous"])
    expires_at: Time
    revoked_at: Time | None


class IssuedKeyAnswer(KeyAnswer):
    """A new key. `key` is shown this once and kept nowhere."""

    key: str = Field(examples=["tmk_3fPq9ZxW1kLm_...43 characters..._0aB1cD"])


class KeysAnswer(BaseModel):
    """A page of keys in the order of their ids, those no longer in force too."""

    keys: list[KeyAnswer]
    next_page_token: str | None = Field(description="For the next page; null on the last.")


class WhoAmIGrantAnswer(GrantAnswer):
    """A grant, and what gives it."""

    source: str = Field(description="Where it comes from.", examples=["the key 3fPq9ZxW1kLm"])


Figure = Annotated[int, Field(ge=0, le=1_000_000_000)]


class LimitBody(Request):
    """How much somebody may. Absent or null: as the settings say."""

    resolves: Figure | None = Field(None, description="Resolves a second; a batch counts once for each key.")
    writes: Figure | None = Field(
        None, description="Changes a second; a batch counts once for each operation."
    )
    lists: Figure | None = Field(None, description="Other reads a second.")
    routes: Figure | None = Field(None, description="Routes that the tenant may have, active or not.")
    keys: Figure | None = Field(None, description="Keys in force that may hold in the tenant.")


class LimitAnswer(LimitBody):
    """What is set for a tenant or a principal."""

    model_config = ConfigDict(extra="ignore")

    subject: Literal["tenant", "principal"]
    name: str = Field(examples=["team-a"])


class LimitsAnswer(BaseModel):
    """A page of what is set, in the order of subjects and names."""

    limits: list[LimitAnswer]
    next_page_token: str | None = Field(description="For the next page; null on the last.")


class WhoAmIAnswer(BaseModel):
    """Who the caller is here, what they may do where, and why. `key_id` is null for anything but a key."""

    name: str = Field(description="What changes say of who made them.", examples=["ci-team-a/3fPq9ZxW1kLm"])
    credential: CredentialKind = Field(description="What was shown.")
    key_id: KeyId | None
    expires_at: Time | None = Field(description="When it ends; null where nobody is asked for one.")
    auth_mode: Literal["open", "required"]
    grants: list[WhoAmIGrantAnswer]


class MirrorAnswer(BaseModel):
    """What one worker holds in memory: where it stands, with the digest of the log there."""

    worker: int = Field(description="The worker's process: another connection may reach another one.")
    workers: int = Field(description="How many the node has.", examples=[2])
    epoch: str = Field(examples=["4be1f0a2d3b04c0e8f0d6e0a4b7f1c2d"])
    revision: int = Field(description="How far it has followed the log.", examples=[42])
    chain: str = Field(description="The log's digest at `revision`, as 64 hexadecimal digits.")
    is_complete: bool = Field(description="Whether it holds every active route.")
    routes: int = Field(description="How many it holds.", examples=[17])


class FieldError(BaseModel):
    """One broken rule."""

    field: str = Field(examples=["tenant"])
    code: str = Field(examples=["invalid-name"])
    detail: str
    pointer: str | None = Field(
        None, description="Where in the body (RFC 6901).", examples=["/operations/3/url"]
    )


class ProblemAnswer(BaseModel):
    """An RFC 9457 problem document; see docs/errors.md for every type."""

    type: str = Field(examples=["urn:traffic-manager:route-not-found"])
    title: str = Field(examples=["No such route"])
    status: int = Field(examples=[404])
    detail: str
    instance: str = Field(examples=["/api/v1/routes/resolve"])
    correlation_id: str
    errors: list[FieldError] | None = None
    current: RouteAnswer | None = Field(None, description="The route as it is, with 409 and 412.")
    index: int | None = Field(None, description="The operation of a batch that failed.")
    head: PositionToken | None = Field(None, description="Where to go on from, with 410.")
    key_id: str | None = Field(None, description="The key that was made when the request was done before.")
    outcome: str | None = Field(None, description="`unknown` if a change may have been made.")
