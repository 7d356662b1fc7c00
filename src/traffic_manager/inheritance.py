"""The table that workers are born with: their parent loads it once before it forks, and all of them share it.

A worker goes on from there by itself. For those that replace a dead one the parent follows the log, seldom and on
its only thread: a process that forks must have no other.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from traffic_manager.access.issuers import Issuer, issuers_of
from traffic_manager.access.keyring import Keyring
from traffic_manager.access.limits import Limits, Subject
from traffic_manager.access.url_hosts import hosts_by_tenant
from traffic_manager.config.settings import Settings, TlsSettings
from traffic_manager.db.feed import SqlFeed
from traffic_manager.db.pool import Counters, open_database
from traffic_manager.errors import StartRefused
from traffic_manager.routing.follower import FRESH_S, Beside, Follower
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Limit, StoredKey
from traffic_manager.routing.urls import HostsByTenant
from traffic_manager.routing.watchers import Watchers
from traffic_manager.saving import Saving

if TYPE_CHECKING:
    from traffic_manager.api.certificates import Certificates

Said = TypeVar("Said")

# What a new worker has to catch up on; a poll costs half a millisecond.
_FOLLOW_EVERY_S = 1.0
# While the database is away a poll may take two seconds, and nobody looks after the workers meanwhile.
_RETRY_MOST_S = 10.0


@dataclass
class Memory:
    """What a worker answers from: the table, the recent changes, the API keys (None: nobody is asked for one), the
    limits, files of TLS (None: plain HTTP), the issuers of tokens, where routes may point. *at_head*: when it was
    last known to be up to date, on the monotonic clock. *bad_rows*: passed over so far."""

    mirror: Mirror
    watchers: Watchers
    keyring: Keyring | None
    limits: Limits
    certificates: Certificates | None = None
    issuers: Sequence[Issuer] = ()
    url_hosts: HostsByTenant = field(default_factory=dict)
    at_head: float | None = None
    bad_rows: int = 0


def empty_memory(settings: Settings) -> Memory:
    """Return a memory with nothing in it. Raises StartRefused if it could not be guarded."""
    settings.check_serving()
    keyring = None if settings.is_open else Keyring(settings.pepper or b"")
    mirror = Mirror(settings.app.mirror_max_routes, settings.cache.negative_ttl)
    issuers = _issuers(settings.auth.issuers_file)
    limits = Limits(defaults_of(settings))
    certificates = _certificates(settings.tls)
    watchers = Watchers(settings.watch.limit, settings.watch.most_of_principal)
    hosts = _url_hosts(settings.app.url_hosts_file)
    return Memory(mirror, watchers, keyring, limits, certificates, issuers, hosts)


def _certificates(settings: TlsSettings) -> Certificates | None:
    if not settings.is_on:
        return None
    # Here, because its library takes 0.07 s and 8 MB.
    from traffic_manager.api.certificates import Certificates

    return Certificates(settings)


def _issuers(file: Path | None) -> Sequence[Issuer]:
    return () if file is None else _said_by(file, "AUTH_ISSUERS_FILE", issuers_of)


def _url_hosts(file: Path | None) -> HostsByTenant:
    return {} if file is None else _said_by(file, "URL_HOSTS_FILE", hosts_by_tenant)


def _said_by(file: Path, variable: str, reader: Callable[[str], Said]) -> Said:
    try:
        return reader(file.read_text())
    except OSError as error:
        raise StartRefused(f"{variable}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StartRefused(f"{variable}: {error}") from None


def defaults_of(settings: Settings) -> Mapping[Subject, Limit]:
    """Return what limits everybody for whom nothing else is set."""
    given = settings.limit
    return {
        Subject.TENANT: Limit(
            Subject.TENANT,
            "",
            given.tenant_resolves,
            given.tenant_writes,
            given.tenant_lists,
            given.tenant_routes,
            given.tenant_keys,
        ),
        Subject.PRINCIPAL: Limit(
            Subject.PRINCIPAL,
            "",
            given.principal_resolves,
            given.principal_writes,
            given.principal_lists,
        ),
    }


class Inheritance:
    """The memory that workers begin with, and its copy on disk, if there is to be one."""

    def __init__(self, settings: Settings) -> None:
        self.memory = empty_memory(settings)
        self._database = open_database(settings.db, Counters())
        self._feed = _Feed(self._database, self._count_bad_row)
        self._follower = self._new_follower()
        self._saving = (
            Saving(settings.snapshot_path, settings.db.described) if settings.snapshot_path else None
        )
        self._due: float | None = None
        self._pause_s = _FOLLOW_EVERY_S

    def follow(self) -> None:
        """Load the table, or bring it up to date, if that is due; keep it on disk from time to time."""
        if self._due is None:
            self._recall()
        elif monotonic() < self._due:
            return
        with self._database.watching():
            is_ok = self._follower.catch_up()
        self.memory.at_head = self._follower.at_head
        self._pause_s = _FOLLOW_EVERY_S if is_ok else min(_RETRY_MOST_S, self._pause_s * 2)
        self._due = monotonic() + self._pause_s
        if self._saving and is_ok:
            self._saving.save_if_due(self.memory.mirror, self._feed.last)

    def before_fork(self) -> None:
        """Put away what must not be shared, and keep children's collectors off what is: they would write to it."""
        self._feed.close()
        gc.collect()
        gc.freeze()

    def ended(self, pid: int, exit_code: int) -> None:
        """A child that is no worker has ended."""
        if self._saving:
            self._saving.ended(pid, exit_code)

    def stop(self) -> None:
        """End `follow`, if it runs, soon. For signal handlers."""
        self._follower.stop()
        self._database.hurry()

    def close(self) -> None:
        """Keep the last state on disk, when all workers have ended."""
        if self._saving:
            last = self._new_follower()  # the other was told to stop
            with self._database.watching():
                last.catch_up()
            self._saving.save_last(self.memory.mirror, self._feed.last, last.staleness_s() or 0.0)

    def _new_follower(self) -> Follower:
        memory = self.memory
        return Follower(
            self._feed,
            memory.mirror,
            _Listener(self._on_fork),
            memory.watchers,
            memory.keyring,
            memory.limits,
            at_head=memory.at_head,
        )

    def _recall(self) -> None:
        """Begin with the copy on disk: most of it still holds, and the database may be away."""
        found = self._saving.recall() if self._saving else None
        if found is None:
            return
        # Never fresh: the wall clock may have been put back since.
        at_head = monotonic() - max(FRESH_S, time.time() - found.seen_at)
        self._follower.recall(found.table, found.beside, at_head)
        self._feed.last = found.beside

    def _on_fork(self) -> None:
        if self._saving:
            self._saving.forget()

    def _count_bad_row(self) -> None:
        self.memory.bad_rows += 1


class _Feed(SqlFeed):
    """Remembers the keys and limits that it read last."""

    last = Beside()

    def keys(self) -> Sequence[StoredKey]:
        keys = super().keys()
        self.last = self.last._replace(keys=keys)
        return keys

    def limits(self) -> Sequence[Limit]:
        limits = super().limits()
        self.last = self.last._replace(limits=limits)
        return limits


class _Listener:
    """Hears what a follower reports, for forks alone: nobody reads the parent's metrics."""

    def __init__(self, on_fork: Callable[[], None]) -> None:
        self.fork = on_fork

    def polled(self, ok: bool) -> None:
        """Nothing."""

    def gap(self) -> None:
        """Nothing."""

    def hinted(self, are_trusted: bool) -> None:
        """Nothing."""

    def hint_missed(self) -> None:
        """Nothing."""
