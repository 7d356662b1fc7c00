"""Who asks: the one place where a request's credential becomes a principal.

`Gate` decides it, for every way in; `Door` stands before the documented calls and lets nobody through without one,
so that a call that is added later is closed until somebody asks for more. What a principal may do, each call asks
it before anything is looked up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from fastapi import Depends, Request

from traffic_manager.access.admitted import mark_of
from traffic_manager.access.client_names import ClientCertificate, ClientNames
from traffic_manager.access.keyring import Keyring
from traffic_manager.access.permissions import CredentialKind, Grant, Principal, Role
from traffic_manager.api.problems import Headers
from traffic_manager.errors import (
    IssuerUnavailable,
    SigningKeyUnknown,
    TokenRefused,
    TrafficManagerError,
    Unauthenticated,
)
from traffic_manager.routing.watchers import always

if TYPE_CHECKING:
    from traffic_manager.access.tokens import Tokens

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any
Refuse = Callable[[Scope, TrafficManagerError], tuple[int, Headers, bytes]]
Check = Callable[[Scope, Principal], None]

log = structlog.get_logger(__name__)

_BEARER = b"bearer "
# Where nobody is asked who they are, everybody is this one.
ANONYMOUS = Principal(
    "anonymous",
    (Grant(Role.ADMIN, None, None),),
    credential=CredentialKind.NONE,
    sources=("AUTH_MODE=open",),
)
_NOBODY = Principal("nobody", ())
SCRAPER = Principal("anonymous", (Grant(Role.MONITOR, None, None),))
# The extension of a scope that has the certificate which the client of its connection has shown.
CERTIFICATE = "traffic_manager.certificate"
HEALTH = ("/health", "/health/live", "/health/ready")
METRICS = "/metrics"


class Gate:
    """Tells who shows a credential: a key of *keyring*, a certificate with one of *names*, or one of *tokens*, whose
    issuers *ask* asks for their keys. *keyring* None: nobody is asked for one, and *is_open*."""

    def __init__(
        self,
        keyring: Keyring | None,
        names: ClientNames | None = None,
        tokens: Tokens | None = None,
        ask: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._keyring = keyring
        self._names = names
        self._tokens = tokens
        self._ask = ask
        self.is_open = keyring is None
        # As that of what is remembered; the lane calls it without a detour.
        self.permits_resolve = keyring.admitted.permits_resolve if keyring is not None else _permits_all

    def admit(
        self, headers: Iterable[tuple[bytes, bytes]], certificate: ClientCertificate | None = None
    ) -> Principal:
        """Return who asks: what stands in a header counts, else the *certificate* of the connection. Raises
        Unauthenticated, or SourceUnavailable while the keys are not known yet."""
        if self._keyring is None:
            return ANONYMOUS
        credential = _credential_of(headers)
        if credential is not None:
            is_token = self._tokens is not None and b"." in credential
            source = self._tokens if self._tokens is not None and is_token else self._keyring
            return source.principal_of(credential)
        if certificate is None or self._names is None:
            raise Unauthenticated
        return self._names.principal_of(certificate)

    async def admit_patiently(
        self, headers: Iterable[tuple[bytes, bytes]], certificate: ClientCertificate | None = None
    ) -> Principal:
        """Return who asks, as `admit` does; if that takes a key that is not known, ask its issuer first: that
        there is none is said from its answer only."""
        try:
            return self.admit(headers, certificate)
        except (SigningKeyUnknown, IssuerUnavailable) as unknown:
            if self._ask is None:
                raise
            is_answered = await self._ask(unknown.issuer)
        try:
            return self.admit(headers, certificate)
        except SigningKeyUnknown as unknown:
            if is_answered:
                raise
            raise IssuerUnavailable(unknown.issuer) from None

    def mark_of(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Return what stands in memory for the credential in the headers; None if there is none, or if it is not
        asked for; of more than one a mark that nobody has."""
        if self.is_open:
            return None
        try:
            credential = _credential_of(headers)
        except Unauthenticated:
            return b""
        return None if credential is None else mark_of(credential)

    def counted_as(self, mark: bytes | None) -> str:
        """Return as whom those with the credential of *mark*, which was admitted lately, are counted."""
        return self._keyring.admitted.counted_as(mark) if self._keyring is not None else ANONYMOUS.counted_as

    def still_admits(self, principal: Principal) -> Callable[[], bool]:
        """Return what tells whether *principal*, let in a while ago, would be let in now."""
        if principal.credential is CredentialKind.CERTIFICATE and self._names is not None:
            return partial(self._names.knows, principal)
        if principal.credential is CredentialKind.TOKEN and self._tokens is not None:
            return partial(self._tokens.knows, principal)
        return always if self._keyring is None else partial(self._keyring.knows, principal)

    def recheck(self, principal: Principal) -> None:
        """Raise Unauthenticated if *principal*, let in a while ago, would not be let in now."""
        if not self.still_admits(principal)():
            raise Unauthenticated


def _permits_all(_mark: bytes | None, _tenant: str, _env: str) -> bool:
    return True


def _credential_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the one credential in the headers of a request, None if there is none. Raises Unauthenticated if there
    is more than one: which of them counts is not for us to guess."""
    found = []
    for name, value in headers:
        if name == b"authorization":
            found.append(value[len(_BEARER) :] if value[: len(_BEARER)].lower() == _BEARER else b"")
        elif name == b"x-api-key":
            found.append(value)
    if len(found) > 1:
        raise Unauthenticated
    return found[0].strip(b" ") if found else None


def free_calls(gate: Gate, *, metrics_are_free: bool) -> Mapping[str, Principal]:
    """Return the paths that ask for no credential, and as whom they are answered."""
    free = dict.fromkeys(HEALTH, _NOBODY)
    return free | {METRICS: SCRAPER} if metrics_are_free and not gate.is_open else free


class Door:
    """An ASGI app before *app*: answers requests without a good credential with what *refuse* renders. *failed* is
    told of each of them, and may raise another refusal; so may *check*, which is told of the others."""

    def __init__(
        self,
        app: App,
        gate: Gate,
        free: Mapping[str, Principal],
        refuse: Refuse,
        failed: Callable[[Scope, TrafficManagerError], None],
        check: Check,
    ) -> None:
        self._app = app
        self._gate = gate
        self._failed = failed
        self._check = check
        self._free = free
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its principal, or refuse it before its body is read."""
        if scope["type"] == "http":
            try:
                principal = self._free.get(scope["path"]) or await self._admitted(scope)
            except TrafficManagerError as error:
                if isinstance(error, TokenRefused):
                    log.debug("token_refused", reason=error.reason)
                status, headers, body = self._refuse(scope, error)
                headers = [*headers, (b"content-length", str(len(body)).encode())]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
            scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope) -> Principal:
        try:
            principal = await self._gate.admit_patiently(scope["headers"], _certificate_of(scope))
        except (Unauthenticated, IssuerUnavailable) as error:
            self._failed(scope, error)
            raise
        self._check(scope, principal)
        return principal


def _certificate_of(scope: Scope) -> ClientCertificate | None:
    found: ClientCertificate | None = scope.get("extensions", {}).get(CERTIFICATE)
    return found


def principal_of(request: Request) -> Principal:
    """Return who asks; a request that came by no door has nobody, and fails."""
    principal: Principal = request.scope["state"]["principal"]
    return principal


async def _caller(request: Request) -> Principal:
    return principal_of(request)


GivenCaller = Annotated[Principal, Depends(_caller)]
