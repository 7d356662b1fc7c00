"""One tenant asks for much, some of it silly, and is told no byte of another's.

Tenant B's names, URLs, owners of keys, correlation ids and reasons hold words that nobody can guess, and change all
the time. Tenant A, who may do everything with its own, asks. `python -m tests.access.canary` does so for long, on
each way to run a server, and says what came of it; `--publish` writes that to docs/security-results.md.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx2

from tests.access.issue import REQUIRED, a_key_for, bearer
from tests.access.results import publish
from tests.node import Node, a_key, a_route, wait_until
from tests.servers import PostgresServer, RedisServer

KEYS = "/api/v1/keys"
ROUTES = "/api/v1/routes"
CHANGES = "/api/v1/changes"
OWN, FOREIGN = "tenant-a", "tenant-b"
# With a number behind it: idempotency keys of the other tenant, which this one may come to use as well.
_KEY = "same"
# A stream is listened to for so long: most of the time of a hunt, were it asked for as often as the rest.
_LISTEN_S = 0.03
_HEADERS = (
    "If-None-Match", "If-Match", "TM-Min-Revision", "Last-Event-ID", "X-Correlation-ID", "Cache-Control", "TM-Reason",
    "X-Forwarded-For", "Forwarded", "X-Tenant", "X-Original-URL", "X-HTTP-Method-Override", "Range", "Prefer",
    *["Idempotency-Key"] * 3,
)  # fmt: skip
_PAGE = """{total:,} requests of an administrator of one tenant, seed {seed}, while another tenant changed its routes.
Words that nobody can guess stood in the other's services, versions, URLs, owners of keys, correlation ids and
reasons.

| server | requests | answers by status | changes meanwhile | seconds | answers that showed a word |
|---|---|---|---|---|---|
{rows}

`make canary` tries this again."""


@dataclass
class Found:
    """What came of a hunt. *shown*: requests whose answers held a canary, and which."""

    asked: int = 0
    changed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)


def hunt(node: Node, requests: int, seed: int, *more_grants: str) -> Found:
    """Ask *node*, which asks for keys, *requests* times as tenant A, who may do what *more_grants* say, too. Fails if
    no canary was there to be seen."""
    canaries = [f"canary{secrets.token_hex(16)}" for _ in range(6)]
    found = Found()
    with (
        _client(node, f"admin:{OWN}/*", *more_grants) as own,
        _client(node, f"admin:{FOREIGN}/*", owner=canaries[3]) as foreign,
    ):
        foreign.headers.update({"X-Correlation-ID": canaries[4], "TM-Reason": canaries[5]})
        _arrange(own, foreign, canaries)
        with _kept_changing(foreign, canaries, found):
            _ask(own, Random(seed), requests, canaries, found)
        told = "".join(foreign.get(path).text for path in (ROUTES, CHANGES + "?limit=1000", KEYS))
    assert all(canary in told for canary in canaries), "the canaries are not there to be seen"
    return found


@contextmanager
def _client(node: Node, *grants: str, owner: str = "alice") -> Iterator[httpx2.Client]:
    """Lend a client with a key of these grants."""
    with node.client() as client:
        client.headers.update(bearer(a_key_for(node, *grants, owner=owner)))
        wait_until(lambda: client.get("/api/v1/whoami").status_code == 200)
        yield client


def _arrange(own: httpx2.Client, foreign: httpx2.Client, canaries: list[str]) -> None:
    for number in range(20):
        names = a_key(tenant=FOREIGN, service=canaries[0], env="prod", version=f"{canaries[1]}.{number}")
        body = {**names, "url": f"https://{canaries[2]}.example.com/"}
        foreign.post(ROUTES, json=body, headers={"Idempotency-Key": f"{_KEY}{number}"}).raise_for_status()
    for version in ("v1", "v2", "v3"):
        own.post(ROUTES, json=a_route(tenant=OWN, version=version)).raise_for_status()


@contextmanager
def _kept_changing(foreign: httpx2.Client, canaries: list[str], found: Found) -> Iterator[None]:
    """Change the other tenant's routes all the while."""
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            found.changed += 1
            names = a_key(tenant=FOREIGN, service=canaries[0], version=f"{canaries[1]}.{found.changed % 20}")
            url = f"https://{canaries[2]}.example.com/{found.changed}"
            foreign.put(f"{ROUTES}/{'/'.join(names.values())}", json={"url": url})
            stop.wait(0.02)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        yield
    finally:
        stop.set()
        changing.join()


def _ask(client: httpx2.Client, chance: Random, requests: int, canaries: list[str], found: Found) -> None:
    tokens = ["0", "1"]
    for number in range(requests):
        answer = _one(client, chance, tokens)
        found.asked += 1
        found.statuses[answer.status_code] += 1
        text = f"{answer.headers}{answer.text}"
        if any(canary in text for canary in canaries):
            found.shown.append(f"{number}: {answer.request.method} {answer.request.url}: {text[:500]}")
        tokens = [*tokens, *_tokens_of(answer)][-200:]


def _tokens_of(answer: httpx2.Response) -> list[str]:
    """Return what can be given back: a later request may go on where another one ended."""
    found = [answer.headers[name] for name in ("TM-Revision", "ETag") if name in answer.headers]
    if answer.headers.get("Content-Type") == "application/json":
        document = answer.json()
        found += [
            str(document[name]) for name in ("next_page_token", "next_after", "head") if document.get(name)
        ]
    return found


def _one(client: httpx2.Client, chance: Random, tokens: list[str]) -> httpx2.Response:
    pick = chance.choice
    odd = ["*", "", f"{OWN}%2f{FOREIGN}", FOREIGN.upper(), FOREIGN + "%00"]
    names = {
        "tenant": pick([*[OWN] * 10, *[FOREIGN] * 10, *odd]),
        "service": pick(["payments"] * 10 + ["canary", "*", "x"]),
        "env": pick(["prod"] * 10 + ["test", "*"]),
        "version": pick(["v1", "v2", "v3", "canary"]),
    }
    headers = _a_header(chance, tokens) if chance.random() < 0.2 else {}
    filters = {name: value for name, value in names.items() if chance.random() < 0.4}
    path = f"{ROUTES}/{names['tenant']}/{names['service']}/{names['env']}/{names['version']}"
    if chance.random() < 0.01:
        return _stream(client, filters, headers, pick(["snapshot", None]), pick(tokens))
    match chance.randrange(11):
        case 0 | 1:
            page = {"page_size": pick(["1", "2", "500"])}
            token = {"page_token": pick(tokens)} if chance.random() < 0.3 else {}
            return client.get(ROUTES, params={**filters, **page, **token}, headers=headers)
        case 2 | 3:
            wait = {"wait": "0.02"} if chance.random() < 0.05 else {}
            after = {"after": pick(tokens)} if chance.random() < 0.7 else {}
            return client.get(CHANGES, params={**filters, "limit": "50", **after, **wait}, headers=headers)
        case 4 | 5:
            return client.get(f"{ROUTES}/resolve", params=names, headers=headers)
        case 6:
            keys = [{**names, "tenant": tenant} for tenant in (OWN, FOREIGN)]
            return client.post(f"{ROUTES}/resolve", json={"keys": keys}, headers=headers)
        case 7:
            return client.get(path + pick(["", "/history"]), headers=headers)
        case 8:
            body = {"url": "https://a.example.com/"}
            return client.request(pick(["PUT", "DELETE", "POST", "PATCH"]), path, json=body, headers=headers)
        case 9:
            operations = [
                {**names, "tenant": tenant, "operation": pick(["create", "activate", "delete"])}
                for tenant in (OWN, FOREIGN)
            ]
            return client.post(
                f"{ROUTES}/batch", json={"operations": operations, "dry_run": True}, headers=headers
            )
        case _:
            others = [
                "/metrics",
                "/health/ready",
                "/api/v1/mirror",
                "/api/v1/limits",
                "/api/v1/whoami",
                "/nowhere",
                path + "/x",
                KEYS,
            ]
            token = {"page_token": pick(tokens)} if chance.random() < 0.3 else {}
            return client.get(pick(others), params=token, headers=headers)


def _a_header(chance: Random, tokens: list[str]) -> dict[str, str]:
    name = chance.choice(_HEADERS)
    if name == "Idempotency-Key":
        return {name: f"{_KEY}{chance.randrange(20)}"}
    return {name: chance.choice([*tokens, FOREIGN, "no-cache", "*"])}


def _stream(
    client: httpx2.Client, filters: dict[str, str], headers: dict[str, str], include: str | None, after: str
) -> httpx2.Response:
    """Return what a stream says in its first moments."""
    question = {**filters, "include": include} if include else {**filters, "after": after}
    with client.stream(
        "GET", f"{CHANGES}/stream", params=question, headers=headers, timeout=_LISTEN_S
    ) as answer:
        text = ""
        try:
            for part in answer.iter_text():
                text += part
        except httpx2.ReadTimeout:
            pass
        plain = {"Content-Type": "text/plain"}
        return httpx2.Response(answer.status_code, headers=plain, text=text, request=answer.request)


@contextmanager
def _servers() -> Iterator[dict[str, Node]]:
    """Lend one server of each kind."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(PostgresServer())
        redis = stack.enter_context(RedisServer())
        settings = {
            "SQLite": {},
            "PostgreSQL, two workers": {**postgres.create_database("memory"), "API_WORKERS": "2"},
            "PostgreSQL, no table in memory, Redis": {
                **postgres.create_database("cached"),
                **redis.env(),
                "MIRROR_MAX_ROUTES": "0",
            },
        }
        nodes = {}
        for number, (name, given) in enumerate(settings.items()):
            (folder / str(number)).mkdir()
            nodes[name] = stack.enter_context(Node(folder / str(number), {**REQUIRED, **given})).start(
                "--migrate"
            )
        yield nodes


def main() -> int:
    """Hunt; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--publish", action="store_true")
    given = options.parse_args()
    rows, shown, total = [], [], 0
    with _servers() as nodes:
        for name, node in nodes.items():
            began = time.monotonic()
            found = hunt(node, -(-given.requests // len(nodes)), given.seed)
            seconds = time.monotonic() - began
            statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(found.statuses.items()))
            cells = [
                name,
                f"{found.asked:,}",
                statuses,
                f"{found.changed:,}",
                f"{seconds:.0f}",
                str(len(found.shown)),
            ]
            rows.append(f"| {' | '.join(cells)} |")
            print(rows[-1], flush=True)
            shown += found.shown
            total += found.asked
    print(*shown[:20], sep="\n")
    if given.publish:
        publish("Canary", _PAGE.format(total=total, seed=given.seed, rows="\n".join(rows)))
    return 1 if shown else 0


if __name__ == "__main__":
    sys.exit(main())
