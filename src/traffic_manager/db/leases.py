"""Leases: rows of the database that one holder at a time can have. Only the database's clock decides.

Rows rather than advisory locks, because a session's lock leaks through a transaction pooler.
"""

from __future__ import annotations

from dataclasses import asdict

from traffic_manager.db.pool import Database
from traffic_manager.routing.leases import Lease, Telling

_MAKE = """insert into leases (name, holder, token, expires_at, published_revision)
    values (:name, '', 0, 0, 0) on conflict (name) do nothing"""
_ACQUIRE = """update leases set holder = :holder, token = token + 1, expires_at = {now} + :ttl_us
    where name = :name and expires_at < {now} returning token, published_revision"""
_RENEW = """update leases set expires_at = {now} + :ttl_us
    where name = :name and holder = :holder and token = :token"""
_PUBLISH = """update leases set published_revision = :revision
    where name = :name and holder = :holder and token = :token"""
_RELEASE = "update leases set expires_at = 0 where name = :name and holder = :holder and token = :token"
_PUBLISHED = "select published_revision from leases where name = :name"
_SET_ASIDE = """insert into events_set_aside (revision, reason, set_aside_at)
    select :revision, :reason, {now} from leases where name = :name and holder = :holder and token = :token
    on conflict (revision) do update set reason = excluded.reason, set_aside_at = excluded.set_aside_at"""
_TELLING = "select told_epoch_number, told_topic, told_partitions from leases where name = :name"
_TOLD = """update leases set told_epoch_number = :epoch_number, told_topic = :topic, told_partitions = :partitions
    where name = :name and holder = :holder and token = :token"""
_COUNT_SET_ASIDE = "select count(*) from events_set_aside"
_SET_ASIDE_FROM = "select revision from events_set_aside where revision >= :revision order by revision"
_FORGET_SET_ASIDE = "delete from events_set_aside where revision = :revision"
# Served by the primary key of changes.
_OCCURRED_AFTER = "select occurred_at from changes where revision > :revision order by revision limit 1"


class SqlLeases:
    """The leases of either engine."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.dialect.now

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Return the lease if nobody holds it, else None."""
        with self._database.writing() as session:
            session.run(_MAKE, name=name)
            acquire = _ACQUIRE.format(now=self._now)
            row = session.row(acquire, name=name, holder=holder, ttl_us=int(ttl_s * 1e6))
        return Lease(name, holder, *row) if row else None

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Return True if the lease is still ours and now lasts *ttl_s* more."""
        return self._run(_RENEW.format(now=self._now), lease, ttl_us=int(ttl_s * 1e6))

    def publish(self, lease: Lease, revision: int) -> bool:
        """Record that all changes up to *revision* are published. False if the lease is no longer ours."""
        return self._run(_PUBLISH, lease, revision=revision)

    def set_aside(self, lease: Lease, revision: int, reason: str) -> bool:
        """Record that the event of *revision* cannot be published. False if the lease is no longer ours."""
        return self._run(_SET_ASIDE.format(now=self._now), lease, revision=revision, reason=reason)

    def telling(self, name: str) -> Telling:
        """Return what all routes were told of."""
        with self._database.reading() as session:
            row = session.row(_TELLING, name=name)
        return Telling(*row) if row else Telling(1)

    def told(self, lease: Lease, telling: Telling) -> bool:
        """Record that all routes were told of this. False if the lease is no longer ours."""
        return self._run(_TOLD, lease, **asdict(telling))

    def release(self, lease: Lease) -> None:
        """Let the next one have it at once."""
        self._run(_RELEASE, lease)

    def published_revision(self, name: str) -> int:
        """Return how far the published changes reach, 0 if nobody ever held the lease."""
        with self._database.reading() as session:
            row = session.row(_PUBLISHED, name=name)
        return int(row[0]) if row else 0

    def events_set_aside(self) -> int:
        """Return how many events are set aside."""
        with self._database.reading() as session:
            row = session.row(_COUNT_SET_ASIDE)
        return int(row[0]) if row else 0

    def set_aside_from(self, revision: int) -> list[int]:
        """Return the revisions from *revision* on whose events are set aside."""
        with self._database.reading() as session:
            return [row[0] for row in session.rows(_SET_ASIDE_FROM, revision=revision)]

    def forget_set_aside(self, revision: int) -> None:
        """Take note that the event of *revision* has been published after all."""
        with self._database.writing() as session:
            session.run(_FORGET_SET_ASIDE, revision=revision)

    def occurred_at_after(self, revision: int) -> int | None:
        """Return when the first change after *revision* was made, in microseconds; None if there is none."""
        with self._database.reading() as session:
            row = session.row(_OCCURRED_AFTER, revision=revision)
        return int(row[0]) if row else None

    def _run(self, statement: str, lease: Lease, **parameters: object) -> bool:
        with self._database.writing() as session:
            touched = session.run(
                statement, name=lease.name, holder=lease.holder, token=lease.token, **parameters
            )
        return touched == 1
