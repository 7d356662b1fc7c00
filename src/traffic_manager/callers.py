"""Who may call a worker, and how much, joined: its gate and its limits, and what keeps both up to date."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING

from traffic_manager.access.client_names import ClientNames
from traffic_manager.access.limiter import Limiter
from traffic_manager.api.access import Gate
from traffic_manager.api.admission import Admission
from traffic_manager.api.handshakes import Handshakes
from traffic_manager.config.settings import Settings
from traffic_manager.inheritance import Memory
from traffic_manager.monitoring.metrics import Metrics

if TYPE_CHECKING:
    from traffic_manager.api.certificates import Loaded
    from traffic_manager.cache.redis_client import RedisClient
    from traffic_manager.providers.key_keeper import KeyKeeper


class Callers:
    """The *gate* that callers come through and the *limiter* that counts them, as *memory* has both; *key_keeper* has
    the keys of issuers, None where no tokens are taken. Limits are shared with other workers by *redis*."""

    def __init__(
        self, settings: Settings, metrics: Metrics, memory: Memory, redis: RedisClient | None
    ) -> None:
        self._metrics = metrics
        self._redis = redis
        self._certificates = memory.certificates
        self._client_names = None if memory.keyring is None else ClientNames(memory.keyring.admitted)
        self.key_keeper: KeyKeeper | None = None
        self.gate = self._new_gate(memory)
        self.limiter = Limiter(
            memory.limits,
            settings.api.workers * settings.limit.nodes,
            lambda kind: metrics.tm_rate_limited_total.labels(kind).inc(),
            leases=redis is not None,
        )

    def keeping_up(self) -> list[Coroutine[None, None, None]]:
        """Return what takes up new files of TLS, keys of issuers and shares of limits, until it is cancelled."""
        kept: list[Coroutine[None, None, None]] = []
        if self._certificates is not None:
            kept.append(self._certificates.watch(self._metrics, self._take_names))
        if self.key_keeper is not None:
            kept.append(self.key_keeper.run())
        if self._redis is not None:
            from traffic_manager.cache.shared_budgets import SharedBudgets

            kept.append(SharedBudgets(self._redis, self.limiter).run())
        return kept

    def handshakes(self, admission: Admission) -> Handshakes | None:
        """Return what shakes hands with whom *admission* takes; None where the server speaks no TLS."""
        if (certificates := self._certificates) is None:
            return None
        return Handshakes(admission, lambda: certificates.loaded.context, self._metrics)

    def _new_gate(self, memory: Memory) -> Gate:
        if memory.keyring is None or not memory.issuers:
            return Gate(memory.keyring, self._client_names)
        # Here, because their libraries take 0.1 s and 11 MB.
        from traffic_manager.access.tokens import Tokens
        from traffic_manager.providers.key_keeper import KeyKeeper

        tokens = Tokens(memory.issuers, memory.keyring.admitted)
        self.key_keeper = KeyKeeper(memory.issuers, tokens, self._metrics)
        return Gate(memory.keyring, self._client_names, tokens, self.key_keeper.ask)

    def _take_names(self, loaded: Loaded) -> None:
        if self._client_names is not None:
            self._client_names.load(loaded.grants)
