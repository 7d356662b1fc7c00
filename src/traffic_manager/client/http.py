"""The calls of the API, one method each, over one connection pool."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx2

from traffic_manager.client.answers import (
    api_key,
    batch_result,
    change_page,
    history_page,
    identity,
    json_of,
    key_page,
    limit,
    limit_page,
    problem_of,
    resolve_results,
    route_page,
)
from traffic_manager.client.errors import UnexpectedAnswer, Unreachable, refusal
from traffic_manager.client.events import events_of
from traffic_manager.client.model import (
    ApiKey,
    BatchResult,
    ChangePage,
    Filter,
    Grant,
    HistoryPage,
    Identity,
    Key,
    KeyPage,
    Limit,
    LimitPage,
    MirrorState,
    Operation,
    Position,
    Readiness,
    Reply,
    Resolved,
    ResolveResult,
    Route,
    RoutePage,
    StreamEvent,
    read,
)
from traffic_manager.client.retries import new_idempotency_key, until_answered
from traffic_manager.client.trust import trust

T = TypeVar("T")

PAGE_SIZE_MAX = 500
CHANGES_LIMIT_MAX = 1000
BATCH_OPERATIONS_MAX = 1000
BATCH_BYTES_MAX = 4 * 1024 * 1024

_NAMES = ("tenant", "service", "env", "version")
# These fail before a byte of the request is sent; after any other failure the work may have been done.
_NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)


class Client:
    """A client of the server at *url* (`http://host:port`, also with a path before the API's).

    *api_key* is sent with every call. *ca_file*: the authorities, in PEM, of the server's certificate, instead of the
    system's; *cert_file*: your own certificate and its private key, both in PEM, for servers that ask for one.
    *timeout_s* bounds connecting and each wait for bytes. A change that got no answer, or that the server could not
    make, is sent again for up to *retry_s*. Each has an idempotency key, yours or a new one, so it is made once all
    the same. Close it, or use it as a context manager. Threads may share it. Raises ValueError if *url* is not an
    HTTP URL, or a file is bad.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        timeout_s: float = 10.0,
        retry_s: float = 5.0,
        user_agent: str = "traffic-manager",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL must begin with http:// or https:// and name a host")
        self._base = url.rstrip("/")
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._reason: str | None = None
        self.shown_url = _without_secrets(url)
        headers = {"User-Agent": user_agent} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        # Loading the trusted certificates takes 94 ms, and plain HTTP never looks at them. Redirects are not
        # followed: they could take the key elsewhere.
        verify = parts.scheme == "https" and trust(ca_file, cert_file)
        self._http = httpx2.Client(headers=headers, timeout=timeout_s, verify=verify, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def giving(self, reason: str | None) -> Self:
        """Return this client, with its connections, that gives *reason* for each change: why it is made."""
        other = copy(self)
        other._reason = reason
        return other

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Routes

    def resolve(self, key: Key) -> Reply[Resolved]:
        """Return which URL serves *key*. Raises NotFound if no active route does."""
        reply = self._call("GET", "/routes/resolve", params=_named(key))
        return self._read(reply, lambda document: read(Resolved, document))

    def resolve_many(self, keys: Sequence[Key]) -> Reply[Sequence[ResolveResult]]:
        """Return which URLs serve up to 1,000 *keys*, in their order and all at one revision. A key without an
        active route raises nothing."""
        body = {"keys": [_named(key) for key in keys]}
        return self._read(self._call("POST", "/routes/resolve", body=body), resolve_results)

    def get(self, key: Key) -> Reply[Route]:
        """Return the route, active or not. Raises NotFound."""
        return self._route(self._call("GET", _path(key)))

    def create(self, key: Key, url: str, *, idempotency_key: str | None = None) -> Reply[Route]:
        """Create an active route (status 201); the same active route again changes nothing (200). Raises
        Conflict if another one is there."""
        body = {**_named(key), "url": url}
        return self._route(self._change("POST", "/routes", idempotency_key, body))

    def put(
        self,
        key: Key,
        url: str,
        *,
        is_active: bool | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Reply[Route]:
        """Create or replace the route. *is_active* None leaves it as it is (active if new)."""
        body = {"url": url} if is_active is None else {"url": url, "is_active": is_active}
        return self._route(self._change("PUT", _path(key), idempotency_key, body, if_match))

    def activate(
        self, key: Key, *, if_match: str | None = None, idempotency_key: str | None = None
    ) -> Reply[Route]:
        """Make the route active. Raises NotFound."""
        path = "/routes/activate"
        return self._route(self._change("POST", path, idempotency_key, _named(key), if_match))

    def deactivate(
        self, key: Key, *, if_match: str | None = None, idempotency_key: str | None = None
    ) -> Reply[Route]:
        """Make the route inactive: it stays, but resolve does not see it. Raises NotFound."""
        path = "/routes/deactivate"
        return self._route(self._change("POST", path, idempotency_key, _named(key), if_match))

    def delete(
        self, key: Key, *, if_match: str | None = None, idempotency_key: str | None = None
    ) -> Reply[None]:
        """Delete the route. Raises NotFound, also the second time, unless that has the same idempotency key."""
        reply = self._change("DELETE", _path(key), idempotency_key, if_match=if_match)
        return self._read(reply, lambda document: None)

    def routes(
        self,
        wanted: Filter,
        *,
        is_active: bool | None = None,
        page_size: int = PAGE_SIZE_MAX,
        page_token: str | None = None,
    ) -> Reply[RoutePage]:
        """Return one page of routes, in key order."""
        params = wanted.params() | {"page_size": str(page_size)} | _token(page_token)
        if is_active is not None:
            params["is_active"] = "true" if is_active else "false"
        return self._read(self._call("GET", "/routes", params=params), route_page)

    def history(
        self, key: Key, *, page_size: int = PAGE_SIZE_MAX, page_token: str | None = None
    ) -> Reply[HistoryPage]:
        """Return one page of the route's changes, the newest first."""
        params = {"page_size": str(page_size)} | _token(page_token)
        return self._read(self._call("GET", f"{_path(key)}/history", params=params), history_page)

    def batch(
        self,
        operations: Sequence[Operation],
        *,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> Reply[BatchResult]:
        """Carry out all operations or none, in one change of the table. Raises Refused with
        `problem.index` if one fails. With *dry_run* only tell what would happen."""
        body = {"dry_run": dry_run, "operations": operations}
        return self._read(self._change("POST", "/routes/batch", idempotency_key, body), batch_result)

    # Access

    def whoami(self) -> Reply[Identity]:
        """Return who the caller is at the server, and what they may do."""
        return self._read(self._call("GET", "/whoami"), identity)

    def keys(self, *, page_size: int = PAGE_SIZE_MAX, page_token: str | None = None) -> Reply[KeyPage]:
        """Return one page of the keys that the caller administers."""
        params = {"page_size": str(page_size)} | _token(page_token)
        return self._read(self._call("GET", "/keys", params=params), key_page)

    def create_key(
        self,
        owner: str,
        grants: Sequence[Grant],
        expires_in_days: int,
        *,
        idempotency_key: str | None = None,
    ) -> Reply[ApiKey]:
        """Make a key. The answer alone has its text: where that was lost, sending it again raises Conflict, whose
        problem has the *key_id* to revoke."""
        wanted = [{"role": g.role, "tenant": g.tenant, "env": g.env} for g in grants]
        body = {"owner": owner, "grants": wanted, "expires_in_days": expires_in_days}
        return self._read(self._change("POST", "/keys", idempotency_key, body), api_key)

    def rotate_key(
        self, key_id: str, overlap_s: int, expires_in_days: int, *, idempotency_key: str | None = None
    ) -> Reply[ApiKey]:
        """Make a key that replaces another, which ends after *overlap_s*. Raises NotFound, and Conflict as
        `create_key` does."""
        body = {"overlap_seconds": overlap_s, "expires_in_days": expires_in_days}
        path = f"/keys/{quote(key_id, safe='')}/rotate"
        return self._read(self._change("POST", path, idempotency_key, body), api_key)

    def revoke_key(self, key_id: str, *, idempotency_key: str | None = None) -> Reply[ApiKey]:
        """End a key for good. Raises NotFound."""
        path = f"/keys/{quote(key_id, safe='')}/revoke"
        return self._read(self._change("POST", path, idempotency_key), api_key)

    def limits(self, *, page_size: int = PAGE_SIZE_MAX, page_token: str | None = None) -> Reply[LimitPage]:
        """Return one page of what is set for tenants and principals."""
        params = {"page_size": str(page_size)} | _token(page_token)
        return self._read(self._call("GET", "/limits", params=params), limit_page)

    def set_limit(self, wanted: Limit, *, idempotency_key: str | None = None) -> Reply[Limit]:
        """Set all figures of a tenant or principal; those that are None are as the server's settings say."""
        figures = {name: figure for name, figure in asdict(wanted).items() if name not in ("subject", "name")}
        place = "/".join(quote(part, safe="") for part in (wanted.subject, wanted.name))
        return self._read(self._change("PUT", f"/limits/{place}", idempotency_key, figures), limit)

    # Changes and health

    def changes(
        self,
        after: Position | int | str,
        wanted: Filter,
        *,
        limit: int = CHANGES_LIMIT_MAX,
        wait_s: int = 0,
        traits: Mapping[str, str] | None = None,
    ) -> Reply[ChangePage]:
        """Return the changes after *after*, in order; with *wait_s* wait that long for the first one. *traits*: what
        else they are like, by `actor`, `action`, `since`, `until`; not with *wait_s*. Raises HistoryGone if they are
        no longer kept."""
        params = wanted.params() | {"after": str(after), "limit": str(limit)} | dict(traits or {})
        if wait_s:
            params["wait"] = str(wait_s)
        reply = self._call("GET", "/changes", params=params, timeout_s=self._timeout_s + wait_s)
        return self._read(reply, change_page)

    def events(
        self,
        wanted: Filter,
        after: Position | str | None = None,
        *,
        with_snapshot: bool = False,
        silence_s: float = 60.0,
    ) -> Iterator[StreamEvent]:
        """Yield the events of one stream until it ends; `follow` goes on after that. *after* None: from now on.
        Raises HistoryGone if *after* cannot be gone on from, Unreachable if the connection breaks or is silent,
        without a heart-beat, for *silence_s*."""
        params = wanted.params() | ({} if after is None else {"after": str(after)})
        params |= {"include": "snapshot"} if with_snapshot else {}
        url = f"{self._base}/api/v1/changes/stream?{urlencode(params, quote_via=quote)}"
        timeout = httpx2.Timeout(self._timeout_s, read=silence_s)
        with self._told(), self._http.stream("GET", url, timeout=timeout) as answer:
            if not answer.is_success:
                answer.read()
                raise self._failure(answer)
            try:
                yield from events_of(answer.iter_bytes())
            except ValueError as error:
                raise UnexpectedAnswer(self.shown_url, f"a stream with {error}") from error

    def mirror(self) -> Reply[MirrorState]:
        """Return where the memory of the worker stands that this connection reaches."""
        return self._read(self._call("GET", "/mirror"), lambda document: read(MirrorState, document))

    def ready(self) -> Readiness:
        """Return whether the server takes work, and its checks. Raises Unavailable if it cannot even say."""
        answer = self._send("GET", f"{self._base}/health/ready")
        document = json_of(answer)
        if answer.status_code not in (200, 503) or not isinstance(document, dict) or "checks" not in document:
            raise self._failure(answer)
        return Readiness(answer.status_code == 200, document)

    def metrics(self) -> str:
        """Return the node's metrics, in Prometheus's text form."""
        answer = self._send("GET", f"{self._base}/metrics")
        if answer.status_code != 200:
            raise self._failure(answer)
        return answer.text

    # One call

    def _change(
        self,
        method: str,
        path: str,
        idempotency_key: str | None,
        body: object = None,
        if_match: str | None = None,
    ) -> httpx2.Response:
        """Return the answer to a change, which may be sent several times and is made once."""
        headers = {"Idempotency-Key": f'"{idempotency_key or new_idempotency_key()}"'}
        headers |= {"If-Match": if_match} if if_match is not None else {}
        headers |= self._why()
        return until_answered(lambda: self._call(method, path, body=body, headers=headers), self._retry_s)

    def _why(self) -> dict[str, str]:
        return {} if self._reason is None else {"TM-Reason": self._reason}

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> httpx2.Response:
        """Return the answer if it is a success, else raise what it means."""
        query = f"?{urlencode(params, quote_via=quote)}" if params else ""
        content = None if body is None else encoded(body)
        headers = {**(headers or {}), **({} if content is None else {"Content-Type": "application/json"})}
        answer = self._send(method, f"{self._base}/api/v1{path}{query}", headers, content, timeout_s)
        if not answer.is_success:
            raise self._failure(answer)
        return answer

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float | None = None,
    ) -> httpx2.Response:
        # A reason may be in any script; the library would send ASCII alone.
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        with self._told():
            return self._http.request(
                method, url, headers=sent, content=content, timeout=timeout_s or self._timeout_s
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what became of a request in our own errors."""
        try:
            yield
        except httpx2.TransportError as error:
            may_be_done = not isinstance(error, _NEVER_SENT)
            raise Unreachable(self.shown_url, _reason(error), may_be_done=may_be_done) from error
        except httpx2.DecodingError as error:
            raise UnexpectedAnswer(self.shown_url, "a body that cannot be decoded") from error

    def _failure(self, answer: httpx2.Response) -> Exception:
        problem = problem_of(answer)
        if problem is not None:
            return refusal(problem)
        kind = answer.headers.get("Content-Type", "no content type")
        return UnexpectedAnswer(self.shown_url, f"HTTP {answer.status_code} with {kind}")

    def _route(self, answer: httpx2.Response) -> Reply[Route]:
        return self._read(answer, lambda document: read(Route, document))

    def _read(self, answer: httpx2.Response, reader: Callable[[Any], T]) -> Reply[T]:  # Any: JSON values
        headers = answer.headers
        try:
            position = Position.parse(headers["TM-Revision"]) if "TM-Revision" in headers else None
            value = reader(json_of(answer))
        except ValueError as error:
            raise UnexpectedAnswer(self.shown_url, f"HTTP {answer.status_code} with {error}") from error
        age_s = int(headers.get("Age", "0")) if headers.get("TM-Stale") == "?1" else None
        return Reply(value, answer.status_code, position, headers.get("ETag"), age_s)


def encoded(body: object) -> bytes:
    """Return *body* as the bytes that are sent: ASCII, so that any text can be, and the server judges it."""
    return json.dumps(body, separators=(",", ":")).encode()


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _named(key: Key) -> dict[str, str]:
    return dict(zip(_NAMES, key, strict=True))


def _path(key: Key) -> str:
    return "/routes/" + "/".join(quote(name, safe="") for name in key)


def _token(page_token: str | None) -> dict[str, str]:
    return {} if page_token is None else {"page_token": page_token}


def _reason(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.ConnectTimeout):
        return "connecting timed out"
    if isinstance(error, httpx2.TimeoutException):
        return "it took too long"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(error).lower() or "the connection broke"
