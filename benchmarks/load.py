"""Load from `wrk`: prepared requests, one generator thread, and contenders in turn."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.install import program
from benchmarks.machine import cpu_s

_FOLDER = Path(__file__).parent
# Replaced by a number of the same width, so that Content-Length holds.
SERIAL = b"@" * 12
_FIRST_SERIAL = 10**11
# wrk waits for its sockets' last events after the time is up; more than that is a hang.
_PATIENCE_S = 20.0


class WrongAnswers(Exception):
    """Requests under load failed, or were answered with something else than before."""


@dataclass(frozen=True)
class Requests:
    """Requests to send in turn, and how many connections send them. With *zipf_over* routes the only text is the
    shape of a resolve, and popular routes are asked for more often."""

    texts: Sequence[bytes]
    connections: int = 64
    zipf_over: int = 0


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw. *cpu_us*: of all processes of the server, per request. *generator*: the
    part of a core that the generator used. *latency_ms* by percentile."""

    requests: int
    seconds: float
    latency_ms: Mapping[float, float]
    cpu_us: float
    generator: float
    answer_bytes: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True)
class Contender:
    """A server under load. *roots* are its processes; their descendants are counted too. Where every request is
    to make *changes* changes, *revision* reads the server's revision, and they are counted."""

    url: str
    requests: Requests
    roots: Sequence[int]
    changes: int = 0
    revision: Callable[[], int] = int


def get(path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request without a body."""
    return _request("GET", path, headers or {}, b"")


def send(method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request with the JSON *body*."""
    told = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    return _request(method, path, told, body)


def run(contender: Contender, seconds: float) -> Load:
    """Load one contender. Raises WrongAnswers if a request failed, or changed nothing where it should have."""
    before = contender.revision()
    with _prepared(contender, seconds) as command:
        load = _measure(command, contender, seconds)
    made, asked = contender.revision() - before, load.requests * contender.changes
    if made < asked:
        raise WrongAnswers(f"{contender.url}: {made} changes made where {asked} were acknowledged")
    return load


@contextmanager
def in_background(contender: Contender, seconds: float) -> Iterator[None]:
    """Load *contender* while the block runs, for at most *seconds*."""
    with _prepared(contender, seconds) as command:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            time.sleep(0.5)  # until its connections are open and the server is busy
            yield
            assert process.poll() is None, "the background load ended before the measurement did"
        finally:
            process.kill()
            process.wait()


def warm(contender: Contender, seconds: float = 1) -> None:
    """Load *contender* without measuring, until connections, caches and code are warm. What is refused while all is
    cold is no fault."""
    with _prepared(contender, seconds) as command:
        subprocess.run(command, capture_output=True, check=True, timeout=seconds + _PATIENCE_S)


def in_turn(
    contenders: Mapping[str, Contender], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, list[Load]]:
    """Return the loads of each contender, round by round. Each round begins with another one, so that a machine
    that drifts favours nobody."""
    loads: dict[str, list[Load]] = {name: [] for name in contenders}
    for contender in contenders.values():
        warm(contender)
    names = list(contenders)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            load = _run_again_if_wrong(contenders[name], seconds, say)
            loads[name].append(load)
            say(f"round {number + 1}/{rounds} {name}: {load.rate:,.0f}/s, p99 {load.latency_ms[99]:.2f} ms")
    _check_same_answers(loads)
    return loads


def _run_again_if_wrong(contender: Contender, seconds: float, say: Callable[[str], None]) -> Load:
    """A round with a refused request is no measurement: it is told, dropped and repeated, once."""
    try:
        return run(contender, seconds)
    except WrongAnswers as wrong:
        say(f"DROPPED, and once more: {wrong}")
        return run(contender, seconds)


def ask(url: str, request: bytes) -> tuple[int, bytes]:
    """Return status and body of the answer to one prepared request, sent as it is."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def _prepared(contender: Contender, seconds: float) -> Iterator[list[str]]:
    """Give wrk's command line; the file of requests lives as long as the block."""
    requests = contender.requests
    script = _FOLDER / ("zipf.lua" if requests.zipf_over else "load.lua")
    with tempfile.NamedTemporaryFile(prefix="requests-") as file:
        file.write(b"\0".join(requests.texts))
        file.flush()
        options = [
            "-t1",
            f"-c{requests.connections}",
            f"-d{seconds:.0f}s",
            "--timeout",
            "10s",
            "-s",
            str(script),
        ]
        arguments = [file.name, str(_next_serial()), str(requests.zipf_over)]
        yield [program("wrk"), *options, contender.url, "--", *arguments]


def _next_serial() -> int:
    """Return the number to count on from: beyond all that runs before could have reached."""
    return _FIRST_SERIAL + int(time.time() * 1_000_000) % (8 * _FIRST_SERIAL)


def _measure(command: list[str], contender: Contender, seconds: float) -> Load:
    roots = list(contender.roots)
    own, server = _own_children_s(), cpu_s(roots)
    limit_s = seconds + _PATIENCE_S
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit_s).stdout
    server, own = cpu_s(roots) - server, _own_children_s() - own
    told = json.loads(printed.splitlines()[-1])
    if any(told["failed"].values()) or not told["requests"]:
        raise WrongAnswers(f"{contender.url}: {told['requests']} requests, failed: {told['failed']}")
    return Load(
        requests=told["requests"],
        seconds=told["seconds"],
        latency_ms={float(percent): value for percent, value in told["latency_ms"].items()},
        cpu_us=server / told["requests"] * 1e6,
        generator=own / told["seconds"],
        answer_bytes=told["bytes"] / told["requests"],
    )


def _own_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _check_same_answers(loads: Mapping[str, Sequence[Load]]) -> None:
    """Raise WrongAnswers if the mean length of a contender's answers was not the same in all rounds."""
    for name, runs in loads.items():
        lengths = [load.answer_bytes for load in runs]
        if max(lengths) > 1.02 * min(lengths):
            raise WrongAnswers(
                f"{name}: answers of {min(lengths):.0f} to {max(lengths):.0f} bytes on average"
            )
