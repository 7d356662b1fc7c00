"""More requests than the nodes can answer, from vegeta: at a constant rate, whatever is answered, and to all of them.

It gets processors of its own, as many as the servers: what it takes must not be what they lack. What it changes, and
what it is told of that, goes to the ledger as any other client's.
"""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import random
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from tests.faults.stand import KNOWN, Stand
from tests.node import path_of, workers_of
from tests.promises.caller import RESOLVE
from tests.promises.ledger import NO_ANSWER, Claim, Write
from tests.servers import install
from tests.servers.ports import HOST
from traffic_manager.monitoring.label_values import Load
from traffic_manager.routing.model import RouteKey

# What is measured: when the last request of the last flood was sent, in monotonic seconds.
ENDED = "the flood ended"
# Of a hundred requests.
_MIX = {Load.RESOLVES: 40, Load.MISSES: 25, Load.WRITES: 20, Load.LISTS: 15}
_FLOODED = [RouteKey.of("team-a", "flooded", "prod", f"v{number}") for number in range(50)]
# So many who ask one after another keep all workers busy, and get this many answers a second at most.
_BUSY = 64
_MOST_PER_S = 10_000
# An open loop needs as many connections as requests wait at a time.
_MOST_CONNECTIONS = 4000
_DEADLINE_S = 5
# As in `"0c1d2e3f.7"`.
_revision_in = re.compile(rb'(?im)^etag: "[0-9a-f]+\.([0-9]+)"').search
# Vegeta may send a few more than its rate says.
_SPARE = 100
_numbers = count(1)


@dataclass
class Answers:
    """Answers of one kind: *took_s* of those that are a success, and how many were refused or not there at all."""

    took_s: list[float] = field(default_factory=list)
    refused: int = 0
    missing: int = 0

    @property
    def p99_s(self) -> float:
        """The time that 99 in 100 took at most; 0 of none."""
        return sorted(self.took_s)[math.ceil(len(self.took_s) * 0.99) - 1] if self.took_s else 0.0

    @property
    def total(self) -> int:
        """All that were asked for."""
        return len(self.took_s) + self.refused + self.missing


Came = Mapping[Load, Answers]


class _Result(NamedTuple):
    """A request and what came of it, as vegeta tells. *kind* and *number* are what the request was drawn as."""

    kind: Load
    number: int
    began_ns: int
    took_ns: int
    status: int
    headers: bytes


def as_fast_as_can_be(stand: Stand, seconds: float) -> Came:
    """Return what came of so many seconds of one request after another, by as many as keep the nodes busy."""
    return _attack(stand, seconds, _MOST_PER_S, ["-rate=0", f"-max-workers={_BUSY}"])


def at_rate(stand: Stand, seconds: float, rate: float) -> Came:
    """Return what came of *rate* requests a second, for so many seconds."""
    return _attack(stand, seconds, rate, [f"-rate={rate:.0f}", f"-max-workers={_MOST_CONNECTIONS}"])


def good_per_s(came: Came, seconds: float, kinds: Collection[Load] = tuple(_MIX)) -> float:
    """Return how many of these *kinds* were answered with a success."""
    return sum(len(came[kind].took_s) for kind in kinds) / seconds


@contextmanager
def apart(stand: Stand) -> Iterator[None]:
    """Let servers and clients have one half of the processors each, so that neither takes from the other."""
    ours = sorted(os.sched_getaffinity(0))
    half = max(1, len(ours) // 2)
    for node in stand.nodes:
        _pin([node.pid, *workers_of(node)], set(ours[:half]))
    server = stand.servers.postgres.pid
    _pin([server, *_children(server)], set(ours[:half]))
    os.sched_setaffinity(0, set(ours[half:]) or set(ours))
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
        _pin([server, *_children(server)], set(ours))


def _pin(pids: Sequence[int], processors: set[int]) -> None:
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), processors)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _attack(stand: Stand, seconds: float, rate: float, how: Sequence[str]) -> Came:
    name, folder = f"flood-{next(_numbers)}", stand.nodes[0].folder
    targets, results = folder / f"{name}.targets", folder / f"{name}.results"
    with targets.open("w") as file:
        file.writelines(
            f"{json.dumps(target)}\n"
            for target in islice(_targets(stand, name), math.ceil(rate * seconds) + _SPARE)
        )
    options = [f"-duration={seconds:.0f}s", f"-timeout={_DEADLINE_S}s", "-max-body=0", "-lazy"]
    options += [f"-connections={_MOST_CONNECTIONS}", f"-max-connections={_MOST_CONNECTIONS}"]
    command = [str(install.vegeta()), "attack", "-format=json", f"-targets={targets}", *options, *how]
    subprocess.run([*command, f"-output={results}"], check=True)
    came = list(_results(results))
    stand.measured[ENDED] = max(result.began_ns for result in came) / 1e9
    stand.ledger.writes += [_write(name, result) for result in came if result.kind is Load.WRITES]
    return _counted(came)


def _results(path: Path) -> Iterator[_Result]:
    """Yield what vegeta wrote there: time, status, nanoseconds, ..., and the headers of the answer last."""
    encode = [str(install.vegeta()), "encode", "--to=csv", str(path)]
    encoded = subprocess.run(encode, check=True, capture_output=True, text=True).stdout
    ahead_ns = time.time_ns() - time.monotonic_ns()
    for fields in csv.reader(encoded.splitlines()):
        kind, number = fields[10].rpartition("#")[2].split("-")
        headers = base64.b64decode(fields[11])
        yield _Result(
            Load(kind), int(number), int(fields[0]) - ahead_ns, int(fields[2]), int(fields[1]), headers
        )


def _counted(results: Sequence[_Result]) -> Came:
    came: dict[Load, Answers] = defaultdict(Answers)
    for result in results:
        answers = came[result.kind]
        if 200 <= result.status < 300:
            answers.took_s.append(result.took_ns / 1e9)
        elif result.status == 503 and b"retry-after:" in result.headers.lower():
            answers.refused += 1
        else:
            answers.missing += 1
    return came


def _write(name: str, result: _Result) -> Write:
    """Return what became of a change, for the ledger."""
    claims, revision = [], _revision_in(result.headers)
    if 200 <= result.status < 300:
        assert revision, result
        key, url = _change(name, result.number)
        claims.append(Claim(int(revision[1]), key, url, is_active=True))
    return Write(
        f"{name}-{result.number}",
        result.began_ns,
        result.began_ns + result.took_ns,
        result.status,
        claims,
        is_outcome_unknown=result.status == NO_ANSWER,
    )


def _change(name: str, number: int) -> tuple[RouteKey, str]:
    """Return the route that a request changes, and the URL that nothing else gives it."""
    return _FLOODED[number % len(_FLOODED)], f"https://payments.example.com/{name}/{number}"


def _targets(stand: Stand, name: str) -> Iterator[dict[str, Any]]:  # Any: a JSON object
    """Yield requests as vegeta reads them; their kinds and numbers stand in their URLs, where servers do not see
    them."""
    chosen = random.Random(stand.seed)
    for number in count():
        kind = chosen.choices(list(_MIX), list(_MIX.values()))[0]
        server = f"http://{HOST}:{stand.nodes[number % len(stand.nodes)].port}"
        target = _target(kind, name, number, chosen.choice(KNOWN))
        yield {**target, "url": f"{server}{target['url']}#{kind}-{number}"}


def _target(kind: Load, name: str, number: int, known: RouteKey) -> dict[str, Any]:  # Any: a JSON object
    if kind is Load.LISTS:
        return {"method": "GET", "url": "/api/v1/routes?tenant=team-a&page_size=100"}
    if kind is Load.WRITES:
        key, url = _change(name, number)
        body = base64.b64encode(json.dumps({"url": url}).encode()).decode()
        headers = {"Content-Type": ["application/json"], "X-Correlation-ID": [f"{name}-{number}"]}
        return {"method": "PUT", "url": path_of(key._asdict()), "body": body, "header": headers}
    resolve = {"method": "GET", "url": f"{RESOLVE}?{urlencode(known._asdict())}"}
    return {**resolve, "header": {"Cache-Control": ["no-cache"]}} if kind is Load.MISSES else resolve
