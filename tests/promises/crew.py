"""Clients at work, on threads: writers that contend for the same keys, and readers that watch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Event

from tests.node import Node
from tests.promises.caller import Answer, Caller, NoAnswer
from tests.promises.ledger import Ledger
from traffic_manager.routing.model import RouteKey

# After an answer that says "not now".
_PAUSE_S = 0.02
_urls = count(1)


def keys(size: int, tenant: str = "team-a") -> list[RouteKey]:
    """Return *size* keys of one tenant."""
    return [RouteKey.of(tenant, "payments", "prod", f"v{number}") for number in range(size)]


def new_url() -> str:
    """Return a URL that no route ever had."""
    return f"https://payments.example.com/{next(_urls)}"


class Crew:
    """Threads that work until the block ends. What fails on one of them fails the test."""

    def __init__(self) -> None:
        self.stop = Event()
        self._pool = ThreadPoolExecutor(64)
        self._jobs: list[Future[None]] = []

    def add(self, step: Callable[[], object], pause_s: float = 0.0) -> None:
        """Do *step* again and again, with pauses. It may raise NoAnswer."""
        self._jobs.append(self._pool.submit(self._repeat, step, pause_s))

    def check(self) -> bool:
        """Raise what a thread has met; return False if none has met anything."""
        for job in self._jobs:
            if job.done():
                job.result()
        return False

    def _repeat(self, step: Callable[[], object], pause_s: float) -> None:
        while not self.stop.is_set():
            try:
                is_well = step() is not None
            except NoAnswer:
                is_well = False
            if pause_s or not is_well:
                self.stop.wait(pause_s or _PAUSE_S)

    def join(self) -> None:
        """End the work and raise what it met."""
        self.stop.set()
        self._pool.shutdown(wait=True)
        self.check()


@contextmanager
def a_crew() -> Iterator[Crew]:
    """Lend a crew."""
    crew = Crew()
    try:
        yield crew
    except BaseException:
        crew.stop.set()
        raise
    crew.join()


class Writer:
    """Makes changes of all kinds to *known* routes, in an order that *seed* decides."""

    def __init__(self, node: Node, ledger: Ledger, known: Sequence[RouteKey], seed: int) -> None:
        self._caller = Caller(node, ledger)
        self._keys = known
        self._random = random.Random(seed)

    def __call__(self) -> Answer | None:
        """Make one; return the answer, None if there was none or it was 503."""
        answer = self._choose()(self._random.choice(self._keys))
        return answer if answer and answer.status != 503 else None

    def _choose(self) -> Callable[[RouteKey], Answer | None]:
        caller = self._caller
        kinds: list[Callable[[RouteKey], Answer | None]] = [
            lambda key: caller.create(key, new_url()),
            lambda key: caller.put(key, new_url()),
            lambda key: caller.switch("activate", key),
            lambda key: caller.switch("deactivate", key),
            caller.delete,
            self._batch,
        ]
        return self._random.choices(kinds, weights=[25, 40, 8, 8, 10, 9])[0]

    def _batch(self, _key: RouteKey) -> Answer | None:
        chosen = self._random.sample(self._keys, k=min(4, len(self._keys)))
        puts = [{"operation": "put", **key._asdict(), "url": new_url()} for key in chosen]
        return self._caller.batch(puts)


class Reader:
    """Resolves *known* keys: plainly, or with `no-cache` where *is_strong*."""

    def __init__(
        self, node: Node, ledger: Ledger, known: Sequence[RouteKey], seed: int, *, is_strong: bool = False
    ) -> None:
        self._caller = Caller(node, ledger)
        self._keys = known
        self._random = random.Random(seed)
        self._is_strong = is_strong

    def __call__(self) -> Answer | None:
        """Resolve one."""
        answer = self._caller.resolve(self._random.choice(self._keys), is_strong=self._is_strong)
        return answer if answer.status in (200, 404) else None


class PassOn:
    """Writes on one node and reads what it wrote on another, with the token that the write returned."""

    def __init__(self, here: Node, there: Node, ledger: Ledger, key: RouteKey) -> None:
        self._writer = Caller(here, ledger)
        self._reader = Caller(there, ledger)
        self._key = key

    def __call__(self) -> Answer | None:
        """Do both; return the answer to the reading."""
        url = new_url()
        written = self._writer.put(self._key, url)
        if written is None or written.status >= 300:
            return None
        return self._reader.resolve(self._key, token=written.headers["tm-revision"])
