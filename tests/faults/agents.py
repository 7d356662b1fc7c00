"""What the clients of a load do, and what they write down."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import accumulate, count
from typing import Any
from urllib.parse import urlencode

from tests.faults.load import DEADLINE_S, PROBE_DEADLINE_S, Load
from tests.faults.wire import Line, Lines
from tests.node import path_of
from tests.promises.caller import RESOLVE, Answer, note_read, write_of
from tests.promises.ledger import NO_ANSWER, Exchange, Kind, Ledger, Write
from traffic_manager.routing.model import RouteKey

_CONNECTIONS = 16
_FIRST_CONNECTIONS = 48
_STRONG = 10
_SILENCES = 3
_NO_CACHE = ("Cache-Control", "no-cache")
_CHANGING_SHARE = 0.05
Duty = Callable[[float], Coroutine[Any, Any, None]]  # Any: what nobody sends to it or takes from it


class Agents:
    """All clients of *load* together; `ledger` is what they did and saw."""

    def __init__(self, load: Load) -> None:
        self.ledger = Ledger()
        self._load = load
        self._random = random.Random(load.seed)
        self._lines = [Lines(port) for port in load.ports]
        self._is_ready = [True for _ in load.ports]
        self._silences = [0 for _ in load.ports]
        # Zipf's law: the second is asked for half as often as the first, the third a third as often, ...
        self._weights = list(accumulate(1 / rank for rank in range(1, len(load.known) + 1)))
        self._turns = count()
        self._numbers = count(1)

    async def warm_up(self) -> None:
        """Open connections, have every known route resolved once by each node, and its threads for look-ups all
        started by as many strong reads at once; not written down."""
        for lines in self._lines:
            # At the same time: one after the other, the same idle worker would accept most of them. And more than are
            # kept: of few, it may still be all.
            opened = await asyncio.gather(*(lines.open() for _ in range(_FIRST_CONNECTIONS)))
            shares = [self._load.known[start::_FIRST_CONNECTIONS] for start in range(_FIRST_CONNECTIONS)]
            await asyncio.gather(*map(resolve_all, opened, shares))
            strong = [resolve_all(line, self._load.known[:_STRONG], _NO_CACHE) for line in opened]
            await asyncio.gather(*strong)
            for line in opened[_CONNECTIONS:]:
                line.close()
            for line in opened[:_CONNECTIONS]:
                lines.give_back(line)

    def duties(self) -> list[tuple[float, Duty]]:
        """Return what is to be done, and how often a second."""
        load = self._load
        probes = [
            (load.probes, self._probing(kind, node))
            for kind in (Kind.LIVE, Kind.READY)
            for node in range(len(load.ports))
        ]
        wanted = [(load.resolves, self._resolve), (load.strong_resolves, self._resolve_strongly)]
        return [(rate, duty) for rate, duty in [*wanted, (load.writes, self._write), *probes] if rate]

    def close(self) -> None:
        """End all connections."""
        for lines in self._lines:
            lines.close()

    # What they ask.

    async def _resolve(self, due_s: float) -> None:
        draw = self._random.random()
        if draw < self._load.unknown_share:
            name = f"unknown-{self._random.randrange(self._load.unknown_names)}"
            await self._read(Kind.UNKNOWN, due_s, RouteKey.of("team-a", name, "prod", "v1"))
        elif draw < self._load.unknown_share + _CHANGING_SHARE:
            await self._read(Kind.CHANGING, due_s, self._random.choice(self._load.changing))
        else:
            await self._read(Kind.KNOWN, due_s, self._popular())

    async def _resolve_strongly(self, due_s: float) -> None:
        await self._read(Kind.STRONG, due_s, self._popular())

    async def _write(self, due_s: float) -> None:
        draw = self._random.random()
        if draw < 0.05:
            await self._batch(due_s)
            return
        key = self._popular() if draw < 0.6 else self._random.choice(self._load.changing)
        answer = await (self._put(due_s, key) if draw < 0.6 else self._change(due_s, key))
        if answer is not None and answer.status < 300:
            await self._read(Kind.TOKEN, time.monotonic(), key, token=answer.headers["tm-revision"])

    async def _put(self, due_s: float, key: RouteKey) -> Answer | None:
        return await self._send(due_s, "PUT", path_of(key._asdict()), self._url(), is_change=True)

    async def _batch(self, due_s: float) -> Answer | None:
        keys = self._random.sample(self._load.known, k=4)
        puts = [{"operation": "put", **key._asdict(), **self._url()} for key in keys]
        return await self._send(due_s, "POST", "/api/v1/routes/batch", {"operations": puts})

    async def _change(self, due_s: float, key: RouteKey) -> Answer | None:
        names = key._asdict()
        verb = self._random.choice(("create", "create", "activate", "deactivate", "delete"))
        if verb == "delete":
            return await self._send(due_s, "DELETE", path_of(names), deleted=key)
        if verb == "create":
            return await self._send(due_s, "POST", "/api/v1/routes", {**names, **self._url()})
        return await self._send(due_s, "POST", f"/api/v1/routes/{verb}", names)

    def _popular(self) -> RouteKey:
        return self._random.choices(self._load.known, cum_weights=self._weights)[0]

    def _url(self) -> dict[str, str]:
        return {"url": f"https://payments.example.com/load/{next(self._numbers)}"}

    def _probing(self, kind: Kind, node: int) -> Duty:
        async def probe(due_s: float) -> None:
            # As orchestrators do: over a new connection, which any worker may accept.
            request = _request("GET", kind.value, ("Connection", "close"))
            _line, answer = await self._ask(kind, node, due_s, request, PROBE_DEADLINE_S, is_new=True)
            if kind is Kind.READY:
                self._note_readiness(node, answer)

        return probe

    def _note_readiness(self, node: int, answer: Answer | None) -> None:
        """Believe an answer at once, and silence the third time, as load balancers do."""
        self._silences[node] = 0 if answer is not None else self._silences[node] + 1
        if answer is not None:
            self._is_ready[node] = answer.status == 200
        elif self._silences[node] >= _SILENCES:
            self._is_ready[node] = False

    # How they ask it, and what they write down.

    async def _read(self, kind: Kind, due_s: float, key: RouteKey, token: str | None = None) -> None:
        is_strong = kind is Kind.STRONG
        headers = [_NO_CACHE] if is_strong else []
        if token:
            headers.append(("TM-Min-Revision", token))
        request = _request("GET", f"{RESOLVE}?{urlencode(key._asdict())}", *headers)
        line, answer = await self._ask(kind, self._node(), due_s, request)
        if line is not None and answer is not None:
            note_read(self.ledger, answer, line.name, key, is_strong=is_strong, token=token)

    async def _send(
        self,
        due_s: float,
        method: str,
        path: str,
        body: object = None,
        *,
        is_change: bool | None = None,
        deleted: RouteKey | None = None,
    ) -> Answer | None:
        request_id = f"load-{os.getpid()}-{next(self._numbers)}"
        request = _request(method, path, ("X-Correlation-Id", request_id), body=body)
        began_ns = time.monotonic_ns()
        _line, answer = await self._ask(Kind.WRITE, self._node(), due_s, request)
        if answer is None:
            write = Write(request_id, began_ns, time.monotonic_ns(), NO_ANSWER)
        else:
            write = write_of(answer, request_id, is_change=is_change, deleted=deleted)
        self.ledger.writes.append(write)
        return answer

    def _node(self) -> int:
        """Return the node whose turn it is."""
        turn = next(self._turns)
        willing = [node for node, is_ready in enumerate(self._is_ready) if is_ready]
        nodes = willing if self._load.is_balanced and willing else range(len(self._lines))
        return nodes[turn % len(nodes)]

    async def _ask(
        self,
        kind: Kind,
        node: int,
        due_s: float,
        request: bytes,
        deadline_s: float = DEADLINE_S,
        *,
        is_new: bool = False,
    ) -> tuple[Line | None, Answer | None]:
        lines, line, answer = self._lines[node], None, None
        try:
            async with asyncio.timeout(due_s + deadline_s - time.monotonic()):
                line = await (lines.open() if is_new else lines.take())
                began_ns = time.monotonic_ns()
                status, headers, body = await line.ask(request)
            answer = Answer(status, headers, body, began_ns, time.monotonic_ns())
            lines.give_back(line)
        except (OSError, TimeoutError):
            if line is not None:
                line.close()
        self._note(kind, node, due_s, answer)
        return line, answer

    def _note(self, kind: Kind, node: int, due_s: float, answer: Answer | None) -> None:
        due_ns = int(due_s * 1e9)
        if answer is None:
            self.ledger.exchanges.append(Exchange(kind, node, due_ns, time.monotonic_ns(), NO_ANSWER))
            return
        retry_after = answer.headers.get("retry-after")
        exchange = Exchange(
            kind,
            node,
            due_ns,
            answer.ended_ns,
            answer.status,
            answer.is_flagged,
            int(retry_after) if retry_after else None,
        )
        self.ledger.exchanges.append(exchange)
        if answer.headers.get("connection") == "close" and kind not in (Kind.LIVE, Kind.READY):
            self._is_ready[node] = False
        if self._load.forbidden in answer.body or self._load.forbidden in repr(answer.headers).encode():
            self.ledger.leaks.append(answer.body)


async def resolve_all(line: Line, keys: Sequence[RouteKey], *headers: tuple[str, str]) -> None:
    """Resolve *keys* one after another; nothing is written down."""
    for key in keys:
        await line.ask(_request("GET", f"{RESOLVE}?{urlencode(key._asdict())}", *headers))


def _request(method: str, path: str, *headers: tuple[str, str], body: object = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: traffic-manager",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content
