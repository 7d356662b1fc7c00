"""The commands that run on the server's machine: serve, migrate, relay, compact, verify, new-epoch, config."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import verify
from traffic_manager.cli.exits import FAILED
from traffic_manager.cli.on_this_machine import exit_with, given_settings, opened_database, start_logging
from traffic_manager.errors import StartRefused

if TYPE_CHECKING:
    from traffic_manager.config.settings import Settings
    from traffic_manager.outbox import Outbox


def register(app: typer.Typer) -> None:
    """Add the server's commands to *app*."""
    app.command()(serve)
    app.command()(migrate)
    relaying = typer.Typer(help="Send changes to Kafka.", invoke_without_command=True)
    relaying.callback()(relay)
    relaying.command("replay")(relay_replay)
    relaying.command("retell")(relay_retell)
    app.add_typer(relaying, name="relay")
    app.command()(compact)
    app.command()(verify.verify)
    app.command()(new_epoch)
    config = typer.Typer(help="Look at the settings of this machine's server.", no_args_is_help=True)
    config.command("show")(config_show)
    config.command("check")(config_check)
    app.add_typer(config, name="config")


def serve(
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring PostgreSQL's tables up to date first.")
    ] = False,
) -> None:
    """Run the server until Ctrl-C or SIGTERM. Settings are environment variables: docs/settings.md."""
    # What imports make stays: to look through it for garbage, again and again, takes a seventh of the start.
    gc.disable()
    from traffic_manager.main import serve as run

    gc.freeze()
    gc.enable()
    settings = given_settings()
    writer = start_logging(settings)
    exit_with(lambda: run(settings, writer, migrate_first=migrate))


def migrate(
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the SQL that it would run, and run nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether there is something to do: exit code 1 if so.")
    ] = False,
) -> None:
    """Bring the database's tables up to date; safe to run again."""
    if plan and check:
        raise typer.BadParameter("--plan and --check: give one of them")
    settings = given_settings()
    start_logging(settings)
    work = _plan_migration if plan else _check_version if check else _migrate
    exit_with(lambda: work(settings))


def _migrate(settings: Settings) -> int:
    from traffic_manager.db.migrate import migrate as run

    typer.echo(f"The tables are of version {run(settings.db)}.")
    return 0


def _plan_migration(settings: Settings) -> int:
    from traffic_manager.db.migrate import plan

    statements = plan(settings.db)
    if statements:
        typer.echo(statements)
    else:
        typer.echo("There is nothing to do.", err=True)
    return 0


def _check_version(settings: Settings) -> int:
    from traffic_manager.db.migrate import version_at
    from traffic_manager.db.schema import SCHEMA_VERSION

    found = version_at(settings.db)
    is_good = found is not None and found >= SCHEMA_VERSION
    todo = "" if is_good else ": run `traffic-manager migrate`"
    typer.echo(f"The tables are of version {found or 'none'}, this program's are of {SCHEMA_VERSION}{todo}.")
    return 0 if is_good else FAILED


def relay(context: typer.Context) -> None:
    """Send changes to Kafka until Ctrl-C or SIGTERM, without serving."""
    if context.invoked_subcommand is not None:
        return
    from traffic_manager.main import run_relay

    settings = given_settings()
    start_logging(settings)
    exit_with(lambda: run_relay(settings))


def relay_replay(
    first: Annotated[
        int, typer.Option("--from", min=1, help="The revision of the first change to send again.")
    ],
) -> None:
    """Send the events of changes again, from one revision up to the newest, also those that were set aside."""
    settings = given_settings()
    start_logging(settings)
    exit_with(lambda: _replay(settings, first))


def relay_retell() -> None:
    """Tell Kafka of every route again as it is now, and of those as deleted that only consumers still have."""
    settings = given_settings()
    start_logging(settings)
    exit_with(lambda: _retell(settings))


def _replay(settings: Settings, first: int) -> int:
    with _outbox(settings) as outbox:
        done = outbox.replay(first)
    typer.echo(f"Sent the events of revisions {first} to {done.upto} again.")
    return _refused_events(done.refused)


def _retell(settings: Settings) -> int:
    with _outbox(settings) as outbox:
        refused = outbox.retell()
    typer.echo("Told all routes again.")
    return _refused_events(refused)


def _refused_events(revisions: Sequence[int]) -> int:
    for revision in revisions:
        typer.echo(f"revision {revision}: Kafka still refuses it", err=True)
    return FAILED if revisions else 0


@contextmanager
def _outbox(settings: Settings) -> Iterator[Outbox]:
    from traffic_manager.monitoring.metrics import Metrics
    from traffic_manager.outbox import Outbox

    if not settings.kafka.bootstrap_servers:
        raise StartRefused("KAFKA_BOOTSTRAP_SERVERS: must be set to send events")
    with opened_database(settings) as database:
        outbox = Outbox(settings.kafka, database, Metrics())
        yield outbox
        outbox.close()


def compact() -> None:
    """Forget changes older than RETENTION_DAYS, except the newest 100,000 and what Kafka has still to get."""
    settings = given_settings()
    start_logging(settings)
    exit_with(lambda: _compact(settings))


def new_epoch() -> None:
    """Say that this database was restored from a backup: what clients hold of the time after it counts no more."""
    settings = given_settings()
    start_logging(settings)
    exit_with(lambda: _new_epoch(settings))


def _new_epoch(settings: Settings) -> int:
    from traffic_manager.db.feed import SqlFeed
    from traffic_manager.db.key_store import SqlKeyStore

    with opened_database(settings) as database, closing(SqlFeed(database, lambda: None)) as feed:
        left = feed.pulse(0).head
        feed.leave_epoch(left.epoch)
        begun = feed.pulse(0).head
        now = time.time_ns() // 1000
        live = sum(key.is_live(now) for key in SqlKeyStore(database).keys()[1])
    typer.echo(
        f"Epoch {begun.epoch_number} ({begun.epoch8}) begins after revision {begun.revision}; "
        f"it was epoch {left.epoch_number} ({left.epoch8})."
    )
    if live:
        typer.echo(
            f"{live:,} API keys are in force, those that were revoked after the backup among them: "
            "see `traffic-manager keys list`."
        )
    return 0


def _compact(settings: Settings) -> int:
    from traffic_manager.db.retention import compact as run

    days = settings.app.retention_days
    if days is None:
        raise StartRefused("RETENTION_DAYS: must be set to forget changes")
    with opened_database(settings) as database:
        made_before = time.time_ns() // 1000 - int(days * 86_400e6)
        done = run(database, made_before, has_kafka=bool(settings.kafka.bootstrap_servers))
    typer.echo(f"Forgot {done.forgotten:,} changes; the log begins after revision {done.compacted_revision}.")
    return 0


def config_show() -> None:
    """Print every setting as it is in force, secrets as ***."""
    from traffic_manager.config.settings import shown

    for variable, value in shown(given_settings()).items():
        typer.echo(f"{variable}={value}")


def config_check() -> None:
    """Check every setting and report all problems at once; then the files that they name."""
    from traffic_manager.inheritance import empty_memory

    settings = given_settings()

    def check() -> int:
        empty_memory(settings)
        typer.echo("The settings are good.")
        return 0

    exit_with(check)
