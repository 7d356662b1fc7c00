"""Signs heads of the log, one round at a time: what `traffic-manager audit sign` does on its timer.

A round looks at all that was changed since the head before, and signs only what follows from it: a signature is never
put under a log that was written anew.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import structlog

from traffic_manager.audit.heads import SignedHead, SigningKey, read
from traffic_manager.config.settings import Settings
from traffic_manager.db.pool import Database
from traffic_manager.db.verification import check_since
from traffic_manager.errors import SourceUnavailable, StartRefused
from traffic_manager.routing.chain import CHAIN_START
from traffic_manager.routing.model import rfc3339

log = structlog.get_logger(__name__)


class HeadSigner:
    """Signs heads of *database* with *key* and appends them to *file*, then hands each line to *send*. As a context
    manager it keeps others from the same file. Raises StartRefused if that cannot be written or is in use."""

    def __init__(
        self, database: Database, key: SigningKey, file: Path, send: Callable[[SignedHead], None]
    ) -> None:
        self._database = database
        self._key = key
        self._send = send
        self._kept = _opened(file)
        newest = read(self._kept, str(file), [key.public]).newest
        # Without a head of this key the whole log is looked at, once.
        self._revision, self._chain = (newest.revision, newest.digest) if newest else (0, CHAIN_START)

    def __enter__(self) -> HeadSigner:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def sign(self) -> bool:
        """Sign the head, unless it is the one before. False if the log does not follow from that: nothing is signed
        then. Raises SourceUnavailable, and whatever *send* raises."""
        told = check_since(self._database, self._revision, self._chain)
        if told.findings:
            log.error("head_not_signed", revision=told.head.revision, finding=told.findings[0])
            return False
        if told.head.revision > self._revision:
            head = self._key.sign(told.head, told.chain, rfc3339(time.time_ns() // 1000))
            self._keep(head)
            self._revision, self._chain = told.head.revision, told.chain
            log.info("head_signed", revision=head.revision, epoch=head.epoch, key=head.key_id)
            self._send(head)
        return True

    def try_to_sign(self) -> bool:
        """As `sign`; False as well, and a line in the log, while the database is away."""
        try:
            return self.sign()
        except SourceUnavailable as away:
            log.warning("source_lost", reason=str(away))
            return False

    def _keep(self, head: SignedHead) -> None:
        self._kept.write(head.line())
        self._kept.flush()
        os.fsync(self._kept.fileno())


def send(settings: Settings, head: SignedHead) -> None:
    """Send *head* to Kafka, if that is wanted. One that it does not take is in the file, and the next covers it."""
    if settings.audit.heads_topic is None:
        return
    from traffic_manager.events.delivery import KafkaUnavailable
    from traffic_manager.events.head_lines import send_line

    try:
        send_line(settings.kafka, settings.audit.heads_topic, head.epoch, head.line())
    except KafkaUnavailable as away:
        log.warning("head_not_sent", revision=head.revision, reason=away.reason)


def _opened(file: Path) -> IO[bytes]:
    """Return *file*, at its beginning, for nobody else to sign in."""
    try:
        kept = file.open("a+b")
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StartRefused(f"AUDIT_HEADS_FILE: another process signs in {file}") from error
    except OSError as error:
        raise StartRefused(f"AUDIT_HEADS_FILE: cannot write {file}: {error.strerror}") from error
    _end_last_line(kept)
    kept.seek(0)
    return kept


def _end_last_line(kept: IO[bytes]) -> None:
    """End what a crash or a full disk has left unfinished: the next head would go on in that line, and be lost."""
    if kept.tell():
        kept.seek(-1, os.SEEK_END)
        if kept.read() != b"\n":
            kept.write(b"\n")
