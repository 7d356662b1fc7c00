"""The command verify: database, log, the memory of nodes and Kafka's topic agree, or it says what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options
from traffic_manager.cli.exits import FAILED, told
from traffic_manager.cli.on_this_machine import exit_with, given_settings, opened_database, start_logging
from traffic_manager.errors import StartRefused

if TYPE_CHECKING:
    from traffic_manager.cli.topic_check import TopicCheck
    from traffic_manager.config.settings import Settings
    from traffic_manager.db.pool import Database
    from traffic_manager.db.verification import Verification

_KNOWN = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


def verify(
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="URL", help="Also compare what the workers of this node hold in memory."
        ),
    ] = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="Also compare what the topic holds.")] = False,
    known: Annotated[
        list[str] | None,
        typer.Option(
            "--known",
            metavar="REVISION:DIGEST",
            help="A digest that this command printed before: the log must still have it.",
        ),
    ] = None,
    timeout_s: options.Timeout = options.DEFAULT_TIMEOUT_S,
) -> None:
    """Check that the log of changes is whole and unaltered, and that every route is as the log says."""
    digests = dict(map(_known, known or ()))
    settings = given_settings()
    start_logging(settings, "ERROR")
    exit_with(lambda: _verify(settings, nodes or (), kafka, digests, timeout_s))


def _known(text: str) -> tuple[int, bytes]:
    match = _KNOWN.fullmatch(text)
    if match is None:
        raise typer.BadParameter("--known: must be a revision, a colon and 64 hexadecimal digits")
    return int(match[1]), bytes.fromhex(match[2])


def _verify(
    settings: Settings, nodes: Sequence[str], kafka: bool, known: Mapping[int, bytes], timeout_s: float
) -> int:
    from traffic_manager.db.verification import verify as run

    with opened_database(settings) as database:
        topic = _read_topic(settings, database) if kafka else None
        found = run(database, checks=[topic] if topic else [], known=known)
        if topic:
            topic.end(found)
        notes = list(_check_nodes(database, found, nodes, timeout_s))
    return tell_of(found, [*([f"{topic.events:,} events"] if topic else []), *notes])


def _read_topic(settings: Settings, database: Database) -> TopicCheck:
    """Return what the topic says. The checkpoint is read first: all up to it must be there."""
    from traffic_manager.cli.topic_check import TopicCheck
    from traffic_manager.db.feed import SqlFeed
    from traffic_manager.db.leases import SqlLeases
    from traffic_manager.events.delivery import KafkaUnavailable
    from traffic_manager.events.kafka_reader import TopicReader
    from traffic_manager.routing.leases import RELAY_LEASE

    if not settings.kafka.bootstrap_servers:
        raise StartRefused("KAFKA_BOOTSTRAP_SERVERS: must be set to read the topic")
    leases = SqlLeases(database)
    published = leases.published_revision(RELAY_LEASE)
    with closing(SqlFeed(database, lambda: None)) as feed:
        topic = TopicCheck(feed.pulse(0).head, published, leases.set_aside_from(0))
    try:
        with closing(TopicReader(settings.kafka)) as reader:
            topic.read(reader)
    except KafkaUnavailable as away:
        raise StartRefused(f"KAFKA_BOOTSTRAP_SERVERS: the topic cannot be read: {away}") from away
    if reader.is_forbidden:
        raise StartRefused("KAFKA_ROUTE_EVENTS_TOPIC: we may not read the topic: give the ACL Read")
    return topic


def _check_nodes(
    database: Database, found: Verification, nodes: Sequence[str], timeout_s: float
) -> Iterator[str]:
    """Compare the nodes; yield what is to be said of it."""
    if not nodes:
        return
    from traffic_manager.cli.mirror_check import MirrorCheck

    check = MirrorCheck(database, found, lambda url: options.connect(url, timeout_s))
    with told():
        for url in nodes:
            yield f"{check.check(url)} workers of {url}"
    for note in check.notes:
        typer.echo(f"note: {note}", err=True)


def tell_of(found: Verification, others: Sequence[str]) -> int:
    """Write what was found; return the exit code. *others*: what else was checked."""
    from traffic_manager.db.verification import MAX_FINDINGS

    for finding in found.findings:
        typer.echo(finding)
    if len(found.findings) == MAX_FINDINGS:
        typer.echo(f"... and perhaps more: only the first {MAX_FINDINGS} are told")
    log = (
        f"{found.changes:,} changes (revisions {found.compacted_revision + 1} to {found.head.revision} of "
        f"history {found.head.epoch8})"
    )
    parts = [log, f"{len(found.table):,} routes", *others]
    checked = f"{', '.join(parts[:-1])} and {parts[-1]}"
    typer.echo(f"Checked {checked}: {'they differ' if found.findings else 'all agree'}.", err=True)
    typer.echo(f"Digest at the head: {found.head.revision}:{found.chain.hex()}", err=True)
    return FAILED if found.findings else 0
