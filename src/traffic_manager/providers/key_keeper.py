"""Keeps the keys of all issuers at hand, so that no request waits for a provider while a key is there.

Each issuer is asked every five minutes, and every ten seconds while it does not answer. A key that is not known may
be new: then the issuer is asked at once, once for all who wait, and not often, for whoever makes tokens up can name
any key. A provider that is away changes nothing for a day.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic

import structlog

from traffic_manager.access.issuers import Issuer
from traffic_manager.access.tokens import Tokens
from traffic_manager.monitoring.label_values import Outcome
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.providers.documents import Documents, FetchFailed

REFRESH_S = 300.0
_LOOK_EVERY_S = 10.0
# Two documents, at the worst. Whoever waits for them waits no longer.
PATIENCE_S = 4.5
# Because of keys that are not known an issuer is asked so often, and in so long.
ASKED_AT_MOST = 2
ASKED_WITHIN_S = 60.0

log = structlog.get_logger(__name__)


class KeyKeeper:
    """Has *tokens* learn the keys of *issuers*. Raises StartRefused if one of them cannot be asked at all."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        tokens: Tokens,
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keeps: Mapping[str, _Keep] = {
            issuer.name: _Keep(issuer, tokens, metrics, clock) for issuer in issuers
        }

    async def run(self) -> None:
        """Ask all issuers again and again, for ever."""
        try:
            await asyncio.gather(*(keep.run() for keep in self._keeps.values()))
        finally:
            for keep in self._keeps.values():
                await keep.close()

    async def ask(self, issuer: str) -> bool:
        """Return whether what is known of *issuer*'s keys is what it says now, or said within the last minute: it is
        asked, unless it was too often, and may not answer in time."""
        return await self._keeps[issuer].ask()

    @property
    def age_s(self) -> float:
        """Seconds since the issuer answered that has not for the longest time; since the start if it never has."""
        return max((keep.age_s for keep in self._keeps.values()), default=0.0)


class _Keep:
    def __init__(self, issuer: Issuer, tokens: Tokens, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._tokens = tokens
        self._metrics = metrics
        self._clock = clock
        self._documents = Documents(issuer)
        self._answered_at = clock()
        self._asked: deque[float] = deque(maxlen=ASKED_AT_MOST)
        self._fetch: asyncio.Task[bool] | None = None
        self._has_failed = False

    @property
    def age_s(self) -> float:
        return self._clock() - self._answered_at

    async def run(self) -> None:
        await asyncio.shield(self._fetching())
        # Spread, so that the workers of all nodes do not come together.
        refresh_s = REFRESH_S * random.uniform(0.8, 1.0)  # noqa: S311 no secret
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._has_failed or self.age_s >= refresh_s:
                await asyncio.shield(self._fetching())

    async def ask(self) -> bool:
        if (self._fetch is not None and not self._fetch.done()) or self._may_ask():
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    return await asyncio.shield(self._fetching())
            return False
        return not self._has_failed and self.age_s <= ASKED_WITHIN_S

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)
        await self._documents.close()

    def _may_ask(self) -> bool:
        now = self._clock()
        if len(self._asked) == ASKED_AT_MOST and now - self._asked[0] < ASKED_WITHIN_S:
            return False
        self._asked.append(now)
        return True

    def _fetching(self) -> asyncio.Task[bool]:
        """Return the fetch under way, one for all."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.get_running_loop().create_task(self._learn())
        return self._fetch

    async def _learn(self) -> bool:
        """Return whether the issuer told its keys."""
        try:
            keys = await self._documents.signing_keys()
        except FetchFailed as error:
            self._metrics.tm_issuer_fetches_total.labels(Outcome.FAILED).inc()
            if not self._has_failed:
                log.warning("issuer_unreachable", issuer=self._issuer.name, reason=str(error))
            self._has_failed = True
            return False
        self._metrics.tm_issuer_fetches_total.labels(Outcome.OK).inc()
        if self._has_failed:
            log.info("issuer_reachable", issuer=self._issuer.name)
        self._has_failed = False
        self._answered_at = self._clock()
        self._tokens.learn(self._issuer, keys)
        return True
