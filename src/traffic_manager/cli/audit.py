"""The commands audit sign, verify and export: evidence of the log that whoever writes to the database cannot make."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import output
from traffic_manager.cli.exits import FAILED
from traffic_manager.cli.on_this_machine import exit_with, given_settings, opened_database, start_logging
from traffic_manager.cli.verify import tell_of
from traffic_manager.errors import StartRefused

if TYPE_CHECKING:
    from traffic_manager.audit.heads import KeptHeads, SignedHead
    from traffic_manager.config.settings import Settings
    from traffic_manager.db.verification import Verification

Heads = Annotated[
    list[Path] | None,
    typer.Option("--heads", metavar="FILE", help="Signed heads, a line each. Default: AUDIT_HEADS_FILE."),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="A public key that heads may be signed with, in PEM. Default: that of AUDIT_KEY_FILE.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    audit = typer.Typer(help="Sign heads of the log, check it against them, export it.", no_args_is_help=True)
    audit.command("sign")(sign)
    audit.command("verify")(verify)
    audit.command("export")(export)
    app.add_typer(audit, name="audit")


# Sign


def sign(
    once: Annotated[
        bool, typer.Option("--once", help="Sign one head and end, for a timer of your own.")
    ] = False,
) -> None:
    """Sign the head of the log every AUDIT_HEADS_SECONDS until Ctrl-C or SIGTERM, if it follows from the last one."""
    settings = given_settings()
    start_logging(settings)
    exit_with(lambda: _sign(settings, is_once=once))


def _sign(settings: Settings, *, is_once: bool) -> int:
    from traffic_manager.audit.heads import SigningKey
    from traffic_manager.cli.head_signing import HeadSigner, send

    audit = settings.audit
    if audit.key_file is None or audit.heads_file is None:
        raise StartRefused("AUDIT_KEY_FILE, AUDIT_HEADS_FILE: must be set to sign")
    if audit.heads_topic and not settings.kafka.bootstrap_servers:
        raise StartRefused("KAFKA_BOOTSTRAP_SERVERS: must be set with AUDIT_HEADS_TOPIC")
    key = SigningKey(audit.key_file, "AUDIT_KEY_FILE")
    # Before any thread starts, so that none of them takes a signal.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with (
        opened_database(settings) as database,
        HeadSigner(database, key, audit.heads_file, lambda head: send(settings, head)) as signer,
    ):
        is_good = signer.try_to_sign()
        while not is_once and signal.sigtimedwait(signals, audit.heads_seconds) is None:
            is_good = signer.try_to_sign()
    return 0 if is_good else FAILED


# Verify


def verify(
    heads: Heads = None,
    public_keys: PublicKeys = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="Also those that AUDIT_HEADS_TOPIC holds.")] = False,
) -> None:
    """Check the log and the routes as `verify` does, and against heads that were signed before."""
    settings = given_settings()
    start_logging(settings, "ERROR")
    exit_with(lambda: _verify(settings, heads or (), public_keys or (), with_kafka=kafka))


def _verify(settings: Settings, files: Sequence[Path], keys: Sequence[Path], *, with_kafka: bool) -> int:
    from traffic_manager.db.verification import verify as run

    kept = _kept(settings, files, keys, with_kafka=with_kafka)
    with opened_database(settings) as database:
        found = run(database, known={head.revision: head.digest for head in kept.heads})
    for finding in (*kept.findings, *_contradictions(kept), *_other_histories(kept, found)):
        found.found(finding)
    for finding in _forgotten(settings, kept, found):
        found.found(finding)
    code = tell_of(found, [f"{len(kept.heads):,} signed heads"])
    if newest := kept.newest:
        rest = max(0, found.head.revision - newest.revision)
        output.note(
            f"newest signed head: revision {newest.revision}, {newest.signed_at}, key {newest.key_id}"
        )
        output.note(f"{rest:,} changes after it are covered by their own digests alone")
    return code


def _kept(settings: Settings, files: Sequence[Path], keys: Sequence[Path], *, with_kafka: bool) -> KeptHeads:
    """Return the heads of all sources."""
    from traffic_manager.audit.heads import KeptHeads, SigningKey, public_key, read

    audit = settings.audit
    sources = list(files) or ([audit.heads_file] if audit.heads_file else [])
    given = [public_key(file) for file in keys]
    if not given and audit.key_file:
        given = [SigningKey(audit.key_file, "AUDIT_KEY_FILE").public]
    if not given or not (sources or with_kafka):
        raise StartRefused("--heads and --public-key, or AUDIT_HEADS_FILE and AUDIT_KEY_FILE: must be given")
    lines: dict[str, Iterable[bytes]] = {str(file): _lines_of(file) for file in sources}
    if with_kafka:
        lines["Kafka"] = _lines_of_topic(settings)
    found = [read(of_source, source, given) for source, of_source in lines.items()]
    heads = [head for one in found for head in one.heads]
    if not heads:
        raise StartRefused(
            "no line is a signed head by these keys: there is nothing to check the log against"
        )
    for source, one in zip(lines, found, strict=True):
        # Somebody may have taken the newest ones away in one place.
        reach = one.newest.revision if one.newest else 0
        output.note(f"{source}: {len(one.heads):,} signed heads, up to revision {reach}")
    return KeptHeads(heads, [finding for one in found for finding in one.findings])


def _lines_of(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError as error:
        raise StartRefused(f"{file}: {error.strerror}") from error


def _lines_of_topic(settings: Settings) -> Iterator[bytes]:
    from traffic_manager.events.delivery import KafkaUnavailable
    from traffic_manager.events.head_lines import read_lines

    if settings.audit.heads_topic is None or not settings.kafka.bootstrap_servers:
        raise StartRefused("KAFKA_BOOTSTRAP_SERVERS, AUDIT_HEADS_TOPIC: must be set to read the topic")
    try:
        yield from read_lines(settings.kafka, settings.audit.heads_topic)
    except KafkaUnavailable as away:
        raise StartRefused(f"AUDIT_HEADS_TOPIC: cannot be read: {away}") from away


def _contradictions(kept: KeptHeads) -> Iterator[str]:
    """Yield what heads say against each other: two digests of one revision."""
    seen: dict[int, SignedHead] = {}
    for head in kept.heads:
        other = seen.setdefault(head.revision, head)
        if other.chain != head.chain:
            yield f"revision {head.revision}: was signed with two digests, {other.signed_at} and {head.signed_at}"


def _other_histories(kept: KeptHeads, found: Verification) -> Iterator[str]:
    """Yield of which other histories heads are that this one does not come after."""
    others = {(head.epoch_number, head.epoch) for head in kept.heads if head.epoch != found.head.epoch}
    for number, epoch in sorted(others):
        if number >= found.head.epoch_number:
            yield (
                f"history {epoch[:8]}, number {number}, was signed, and this one is {found.head.epoch8}, "
                f"number {found.head.epoch_number}: it was exchanged or put back"
            )


def _forgotten(settings: Settings, kept: KeptHeads, found: Verification) -> Iterator[str]:
    """Yield what is gone from the beginning of the log and should not be."""
    from traffic_manager.db.retention import KEPT_CHANGES

    boundary, days = found.compacted_revision, settings.app.retention_days
    if not boundary:
        return
    if days is None:
        yield f"changes up to revision {boundary} are gone, and RETENTION_DAYS, which would let them go, is not set"
        return
    if found.head.revision - boundary < KEPT_CHANGES:
        yield f"changes up to revision {boundary} are gone, of which `compact` keeps the last {KEPT_CHANGES:,}"
    youngest = time.time() - days * 86_400
    early = [head for head in kept.heads if head.revision <= boundary and _time(head) > youngest]
    if early:
        last = max(early, key=lambda head: head.revision)
        yield f"changes up to revision {boundary} are gone, but revision {last.revision} was signed {last.signed_at}"


def _time(head: SignedHead) -> float:
    return datetime.fromisoformat(head.signed_at).timestamp()


# Export


def export(
    after: Annotated[int, typer.Option("--after", min=0, help="Only changes after this revision.")] = 0,
) -> None:
    """Write the whole log, changes of API keys too, as lines of JSON with their digests, from the database itself."""
    settings = given_settings()
    start_logging(settings, "ERROR")
    exit_with(lambda: _export(settings, after))


def _export(settings: Settings, after: int) -> int:
    from traffic_manager.db.log_lines import log_lines

    with opened_database(settings) as database:
        output.lines(line.decode() for line in log_lines(database, after))
    return 0
