"""The command changes: what happened to routes, and what happens from now on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import told
from traffic_manager.cli.output import Format
from traffic_manager.cli.watch import Notes
from traffic_manager.routing.model import Action

if TYPE_CHECKING:
    from traffic_manager.client import Change, Client, Filter, Position

_PAGE_LIMIT = 1000


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
Actor = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Made by this one, or with an API key of this owner."),
]
ActionName = Annotated[Action | None, typer.Option("--action", help="Only changes that did this.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Made then or later, such as 2026-11-27T12:00:00Z."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Made before then.")]
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
    actor: Actor = None,
    action: ActionName = None,
    since: Since = None,
    until: Until = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show the changes of routes in order; with --follow one line for each until Ctrl-C (exit code 130)."""
    wanted = options.wanted(tenant, service, env, version)
    given = {"actor": actor, "action": action and action.value, "since": since, "until": until}
    traits = {name: value for name, value in given.items() if value is not None}
    if follow and traits:
        raise typer.BadParameter(
            "--follow goes with names only, not with --actor, --action, --since or --until"
        )
    with told(), options.connect(server, timeout) as client:
        if follow:
            _follow(client, after, wanted, form)
        else:
            _show(*_read(client, after, wanted, limit, traits), form)


# Once


def _read(
    client: Client, after: str | None, wanted: Filter, limit: int, traits: Mapping[str, str]
) -> tuple[list[Change], Position, Position]:
    """Return up to *limit* changes, the head, and where to go on."""
    from traffic_manager.client import Position

    head = _head(client)
    # With traits the newest so many revisions may hold none: then from the beginning.
    newest = str(Position(head.epoch8, max(0, head.revision - limit)))
    start = after or ("0" if traits else newest)
    found: list[Change] = []
    while True:
        page = client.changes(start, wanted, limit=min(_PAGE_LIMIT, limit - len(found)), traits=traits).value
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
    from traffic_manager.client import follow

    for event in follow(client, wanted, after or _head(client), outages=Notes()):
        if event.kind == "change":
            change = event.change
            output.line(output.json_line(asdict(change)) if form is Format.JSON else _told(change))


def _told(change: Change) -> str:
    """Return the change as one line for people."""
    words = f"{change.revision:>8}  {output.when(change.occurred_at)}  {change.action:<11}"
    return output.printable(f"{words}  {'/'.join(change.key)}  {change.url or ''}".rstrip())
