"""How much each tenant and each principal may ask for: what is set for them, over what the settings say for all.

Limits travel through the log as keys do, so that nobody asks a database before answering. The follower keeps them;
`limiter` measures requests by them, and `routing` asks for the quotas of a tenant before it creates a route.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

from traffic_manager.access.permissions import IN_TENANTS
from traffic_manager.routing.ports import Limit

# The most that any of them can be: more than a server can do in a second.
MOST = 1_000_000_000


class Kind(StrEnum):
    """What is counted apart, by the name of its figure in `Limit`."""

    RESOLVES = "resolves"  # a batch counts once for each of its keys
    WRITES = "writes"  # a batch counts once for each of its operations
    LISTS = "lists"  # all that reads else: lists, routes, histories, changes, keys


class Subject(StrEnum):
    """Whose requests are counted together."""

    TENANT = "tenant"
    PRINCIPAL = "principal"  # an owner of keys, by all of them: more keys give no more


class Limits:
    """The limits in force. *defaults*: what holds where nothing is set. *changed*: called after each load."""

    def __init__(self, defaults: Mapping[Subject, Limit], changed: Callable[[], None] = lambda: None) -> None:
        self._defaults = defaults
        self._of: dict[tuple[str, str], Limit] = {}
        self.changed = changed

    def load(self, limits: Collection[Limit]) -> None:
        """Take these instead of all that were here."""
        self._of = {(limit.subject, limit.name): limit for limit in limits}
        self.changed()

    def rate(self, subject: Subject, name: str, kind: Kind) -> int | None:
        """Return how many requests a second are permitted to *name*, a tenant or as whom a principal is counted; None
        for any number."""
        return self._figure(subject, name.partition(IN_TENANTS)[0], kind.value)

    def has_rates(self, subject: Subject, kind: Kind) -> bool:
        """Return whether anybody's requests of *kind* are limited."""
        own = (limit for limit in self._of.values() if limit.subject == subject)
        return any(getattr(limit, kind.value) is not None for limit in (self._defaults[subject], *own))

    def routes(self, tenant: str) -> int | None:
        """Return how many routes *tenant* may have, None for any number."""
        return self._figure(Subject.TENANT, tenant, "routes")

    def keys(self, tenant: str) -> int | None:
        """Return how many keys may hold in *tenant*, None for any number."""
        return self._figure(Subject.TENANT, tenant, "keys")

    def _figure(self, subject: Subject, name: str, field: str) -> int | None:
        own = self._of.get((subject, name))
        figure: int | None = getattr(own, field) if own else None
        if figure is None:
            figure = getattr(self._defaults[subject], field)
        return figure
