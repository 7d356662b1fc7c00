"""The command changes: what happened to routes, and what happens from now on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import failure_of, told
from traffic_manager.cli.output import Format

if TYPE_CHECKING:
    from traffic_manager.client import Change, ChangePage, Client, ClientError, Filter, Position

WAIT_S = 30
_PAGE_LIMIT = 1000
_BACKOFF_CAP_S = 30.0


_is_revision = re.compile(r"(?:[0-9a-f]{8}\.)?[0-9]{1,18}", re.ASCII).fullmatch


def _after(value: str | None) -> str | None:
    if value is not None and not _is_revision(value):
        raise typer.BadParameter("must be a revision such as 12 or 4be1f0a2.12")
    return value


After = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="REVISION",
        callback=_after,
        help="Changes after this revision: 0, 12 or 4be1f0a2.12. Default: the newest --limit revisions, "
        "with --follow what happens from now on.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many changes; not with --follow.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with each change as it happens.")]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("changes")(changes)


def changes(
    after: After = None,
    limit: Limit = 100,
    follow: Follow = False,
    tenant: options.Tenant = None,
    service: options.Service = None,
    env: options.Env = None,
    version: options.Version = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show the changes of routes in order; with --follow one line for each until Ctrl-C (exit code 130)."""
    wanted = options.wanted(tenant, service, env, version)
    with told(), options.connect(server, timeout) as client:
        if follow:
            _follow(client, after, wanted, form)
        else:
            _show(*_read(client, after, wanted, limit), form)


# Once


def _read(
    client: Client, after: str | None, wanted: Filter, limit: int
) -> tuple[list[Change], Position, Position]:
    """Return up to *limit* changes, the head, and where to go on."""
    from traffic_manager.client import Position

    head = _head(client)
    start = after or str(Position(head.epoch8, max(0, head.revision - limit)))
    found: list[Change] = []
    while True:
        page = client.changes(start, wanted, limit=min(_PAGE_LIMIT, limit - len(found))).value
        found.extend(page.changes)
        if len(found) >= limit or page.next_after.revision >= page.head.revision:
            return found, page.head, page.next_after
        start = str(page.next_after)


def _head(client: Client) -> Position:
    """Return where the changes stand now."""
    from traffic_manager.client import Filter, UnexpectedAnswer

    position = client.routes(Filter(), page_size=1).position
    if position is None:
        raise UnexpectedAnswer(client.shown_url, "without the header TM-Revision")
    return position


def _show(found: list[Change], head: Position, next_after: Position, form: Format) -> None:
    if form is Format.JSON:
        document = {"changes": [asdict(change) for change in found]}
        output.document(document | {"head": str(head), "next_after": str(next_after)})
    elif found:
        output.change_table(found)
    else:
        output.note("no such changes")
    if next_after.revision < head.revision:
        output.note(f"more follow: --after {next_after} goes on")


# For ever


def _follow(client: Client, after: str | None, wanted: Filter, form: Format) -> None:
    for page in _pages(client, after or str(_head(client)), wanted):
        for change in page.changes:
            output.line(output.json_line(asdict(change)) if form is Format.JSON else _told(change))


def _pages(client: Client, after: str, wanted: Filter) -> Iterator[ChangePage]:
    """Yield pages as changes happen. A server that was reached once is waited for; each change comes once,
    because the next page always continues from `next_after`."""
    from traffic_manager.client import Unavailable, Unreachable, full_jitter_s

    failures, was_reached = 0, False
    while True:
        try:
            page = client.changes(after, wanted, wait_s=WAIT_S).value
        except (Unreachable, Unavailable) as error:
            if not was_reached:
                raise
            _tell_outage(error, failures)
            time.sleep(full_jitter_s(failures, base_s=0.5, cap_s=_BACKOFF_CAP_S))
            failures += 1
            continue
        if failures:
            output.note(f"back again; going on after {after}")
        failures, was_reached, after = 0, True, str(page.next_after)
        yield page


def _tell_outage(error: ClientError, failures: int) -> None:
    if failures == 0:
        output.note(f"{failure_of(error).what}; trying again until it is back")


def _told(change: Change) -> str:
    """Return the change as one line for people."""
    words = f"{change.revision:>8}  {output.when(change.occurred_at)}  {change.action:<11}"
    return output.printable(f"{words}  {'/'.join(change.key)}  {change.url or ''}".rstrip())
