"""A client that writes down what it does: each request and its answer go into a ledger for the oracle.

Plain `http.client`, one connection at a time: a connection stays with one worker, it costs little on a machine
that runs the servers too, and it never repeats a request by itself.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from urllib.parse import urlencode

from tests.node import Node, path_of
from tests.promises.ledger import NO_ANSWER, Claim, Ledger, Read, Write
from tests.servers.ports import HOST
from traffic_manager.routing.model import RouteKey

RESOLVE = "/api/v1/routes/resolve"
_requests = count(1)
_connections = count(1)


@dataclass(frozen=True)
class Answer:
    """An answer, and when it was asked for and read. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    began_ns: int
    ended_ns: int

    @property
    def json(self) -> Any:  # Any: a JSON value
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def revision(self) -> int:
        """The revision that the answer was true at, 0 if it names none."""
        return int(self.headers.get("tm-revision", ".0").partition(".")[2])

    @property
    def is_flagged(self) -> bool:
        """Whether it says that it may be stale."""
        return self.headers.get("tm-stale") == "?1"


class NoAnswer(Exception):
    """The connection broke, could not be made, or time was up."""


class Caller:
    """Talks to one node over one connection; after an error over another. For one thread."""

    def __init__(self, node: Node, ledger: Ledger | None = None, timeout_s: float = 10.0) -> None:
        self.ledger = ledger if ledger is not None else Ledger()
        self._node = node
        self._http = http.client.HTTPConnection(HOST, node.port, timeout=timeout_s)
        self.connection = ""

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Return the answer; headers as `tm_min_revision="..."`. Raises NoAnswer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["Content-Type"] = "application/json"
        began_ns = time.monotonic_ns()
        try:
            self._connect()
            self._http.request(method, path, json.dumps(body) if body is not None else None, sent)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswer(str(error)) from error
        given = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, given, content, began_ns, time.monotonic_ns())

    def close(self) -> None:
        """End the connection; the next request opens another."""
        self._http.close()

    @property
    def local_port(self) -> int:
        """Our end of the open connection."""
        self._connect()
        return int(self._http.sock.getsockname()[1])

    def _connect(self) -> None:
        if self._http.sock is None:
            self._http.connect()
            self.connection = f"{self._node.port}/{next(_connections)}"

    # Writes.

    def create(self, key: RouteKey, url: str) -> Answer | None:
        """Create a route; None stands for no answer, here and below."""
        return self._write("POST", "/api/v1/routes", {**key._asdict(), "url": url})

    def put(self, key: RouteKey, url: str) -> Answer | None:
        """Give *key* a URL that it never had, so that this is a change."""
        return self._write("PUT", path_of(key._asdict()), {"url": url}, is_change=True)

    def delete(self, key: RouteKey) -> Answer | None:
        """Remove a route."""
        return self._write("DELETE", path_of(key._asdict()), deleted=key)

    def switch(self, verb: str, key: RouteKey) -> Answer | None:
        """`activate` or `deactivate` a route."""
        return self._write("POST", f"/api/v1/routes/{verb}", key._asdict())

    def batch(self, operations: Sequence[Mapping[str, object]]) -> Answer | None:
        """Do all of *operations* or none."""
        return self._write("POST", "/api/v1/routes/batch", {"operations": operations})

    def _write(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        is_change: bool | None = None,
        deleted: RouteKey | None = None,
    ) -> Answer | None:
        request_id = f"request-{next(_requests)}"
        began_ns = time.monotonic_ns()
        try:
            answer = self.ask(method, path, body, x_correlation_id=request_id)
        except NoAnswer:
            self.ledger.writes.append(Write(request_id, began_ns, time.monotonic_ns(), NO_ANSWER))
            return None
        self.ledger.writes.append(write_of(answer, request_id, is_change=is_change, deleted=deleted))
        return answer

    def put_until_told(self, key: RouteKey, url: str, patience_s: float) -> int:
        """Give *key* a new URL, and send the same again, under one idempotency key, until it is a success; return how
        often it was sent. In the ledger it is one write. Raises NoAnswer when time is up."""
        request_id = f"request-{next(_requests)}"
        began_ns, give_up_at = time.monotonic_ns(), time.monotonic() + patience_s
        for number in count(1):
            with suppress(NoAnswer):
                answer = self.ask(
                    "PUT",
                    path_of(key._asdict()),
                    {"url": url},
                    x_correlation_id=request_id,
                    idempotency_key=request_id,
                )
                if answer.status < 300:
                    write = write_of(answer, request_id, is_change=True)
                    self.ledger.writes.append(replace(write, began_ns=began_ns))
                    return number
            if time.monotonic() > give_up_at:
                raise NoAnswer(f"{request_id} had no success in {patience_s} s")
        raise AssertionError("it is counted for ever")

    # Reads.

    def resolve(self, key: RouteKey, *, is_strong: bool = False, token: str | None = None) -> Answer:
        """Resolve *key*. Raises NoAnswer."""
        headers = {"cache_control": "no-cache"} if is_strong else {}
        if token:
            headers["tm_min_revision"] = token
        answer = self.ask("GET", f"{RESOLVE}?{urlencode(key._asdict())}", **headers)
        note_read(self.ledger, answer, self.connection, key, is_strong=is_strong, token=token)
        return answer


def note_read(
    ledger: Ledger,
    answer: Answer,
    connection: str,
    key: RouteKey,
    *,
    is_strong: bool = False,
    token: str | None = None,
) -> None:
    """Write down what *answer* says of *key*."""
    if answer.status not in (200, 404) or "tm-revision" not in answer.headers:
        ledger.unanswered.append((answer.began_ns, answer.status))
        return
    ledger.reads.append(
        Read(
            connection=connection,
            began_ns=answer.began_ns,
            ended_ns=answer.ended_ns,
            key=key,
            url=answer.json["url"] if answer.status == 200 else None,
            as_of=answer.revision,
            is_flagged=answer.is_flagged,
            is_strong=is_strong,
            at_least=int(token.partition(".")[2]) if token else 0,
        )
    )


def write_of(
    answer: Answer, request_id: str, *, is_change: bool | None = None, deleted: RouteKey | None = None
) -> Write:
    """Return what *answer* says of the write *request_id*; *deleted* is the route that it was to delete."""
    claims = _claims(answer, is_change, deleted) if answer.status < 300 else []
    is_unknown = answer.status == 503 and answer.json.get("outcome") == "unknown"
    return Write(request_id, answer.began_ns, answer.ended_ns, answer.status, claims, is_unknown)


def _claims(answer: Answer, is_change: bool | None, deleted: RouteKey | None) -> list[Claim]:
    if deleted is not None:
        return [Claim(answer.revision, deleted, None, is_active=False)]
    document = answer.json
    if "results" in document:
        return [_batch_claim(result) for result in document["results"] if result["changed"]]
    is_certain = is_change or answer.status == 201 or None
    return [_route_claim(document, is_certain)]


def _batch_claim(result: Mapping[str, Any]) -> Claim:
    # A batch of this test set touches a key once and tells of deletions by the revision alone, so that a
    # deleted route's key is what the log says. See `Writer`: its batches do not delete.
    return _route_claim(result["route"], True)


def _route_claim(route: Mapping[str, Any], is_change: bool | None) -> Claim:
    key = RouteKey.known(route["tenant"], route["service"], route["env"], route["version"])
    return Claim(route["revision"], key, route["url"], route["is_active"], is_change)
