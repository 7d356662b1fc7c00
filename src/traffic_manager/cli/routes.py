"""Commands that read routes: resolve, routes list, get, history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli import watch as watching
from traffic_manager.cli.exits import NOT_FOUND, Failure, tell, told
from traffic_manager.cli.output import Format, ListFormat

if TYPE_CHECKING:
    from traffic_manager.client import Change, Client, Filter, Key, Route

_PAGE_SIZE = 500
Limit = Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on with each change as it happens.")]
All = Annotated[bool, typer.Option("--all", help="Show all, whatever --limit says.")]


def register(app: typer.Typer, routes_app: typer.Typer) -> None:
    """Add these commands."""
    app.command("resolve")(resolve)
    routes_app.command("list")(list_)
    routes_app.command("get")(get)
    routes_app.command("history")(history)


def resolve(
    routes: options.RouteArguments,
    watch: Watch = False,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Print the URL that serves this route now; with --watch also each time that it is another, until Ctrl-C.
    Of several routes one line each, all as of one moment."""
    if watch and len(routes) > 1:
        raise typer.BadParameter("--watch takes one route")
    with told(), options.connect(server, timeout) as client:
        if watch:
            watching.watch(client, routes[0], form)
        is_found, age_s = _resolve(client, routes, form)
    if age_s is not None:
        output.note(f"may be stale: as the server knew it {age_s} s ago")
    if not is_found:
        raise typer.Exit(NOT_FOUND)


def _resolve(client: Client, routes: Sequence[Key], form: Format) -> tuple[bool, int | None]:
    """Print what *routes* resolve to; return whether all of them do, and how old the answer may be."""
    if len(routes) == 1:
        reply = client.resolve(routes[0])
        _show_resolved(asdict(reply.value), [reply.value.url], form)
        return True, reply.age_s
    many = client.resolve_many(routes)
    _show_resolved({"results": [asdict(r) for r in many.value]}, [r.url or "" for r in many.value], form)
    return all(result.url for result in many.value), many.age_s


def _show_resolved(document: object, urls: list[str], form: Format) -> None:
    if form is Format.JSON:
        output.document(document)
    else:
        for url in urls:
            output.line(output.printable(url))


def list_(
    tenant: options.Tenant = None,
    service: options.Service = None,
    env: options.Env = None,
    version: options.Version = None,
    active: options.Active = None,
    limit: Limit = 100,
    show_all: All = False,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.ListOutput = ListFormat.TABLE,
) -> None:
    """List routes in the order of their names."""
    wanted = options.wanted(tenant, service, env, version)
    with told(), options.connect(server, timeout) as client:
        page_size = _PAGE_SIZE if show_all else min(_PAGE_SIZE, limit + 1)
        found = _routes(client, wanted, active, page_size)
        # One more than shown tells whether there are more.
        routes = list(found if show_all else islice(found, limit + 1))
    has_more = not show_all and len(routes) > limit
    _show_routes(routes if show_all else routes[:limit], form, has_more=has_more)
    if has_more:
        output.note(f"there are more than {limit}: --limit or --all shows them")


def _routes(client: Client, wanted: Filter, is_active: bool | None, page_size: int) -> Iterator[Route]:
    token: str | None = None
    while True:
        page = client.routes(wanted, is_active=is_active, page_size=page_size, page_token=token).value
        yield from page.routes
        token = page.next_page_token
        if token is None:
            return


def _show_routes(routes: list[Route], form: ListFormat, *, has_more: bool) -> None:
    if form is ListFormat.JSON:
        output.document({"routes": [asdict(route) for route in routes], "has_more": has_more})
    elif form is ListFormat.CSV:
        output.lines(output.csv_lines(routes))
    elif routes:
        output.route_table(routes)
    else:
        output.note("no such routes")


def get(
    route: options.RouteArgument,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show one route, active or not, with the etag for --if-match."""
    with told(), options.connect(server, timeout) as client:
        reply = client.get(route)
    output.route(reply, form)


def history(
    route: options.RouteArgument,
    limit: Limit = 50,
    show_all: All = False,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show a route's changes, the newest first; also of a deleted route."""
    with told(), options.connect(server, timeout) as client:
        found = _History(client, route)
        changes = list(found if show_all else islice(found, limit + 1))
    if not changes and not found.truncated:
        raise tell(
            Failure(NOT_FOUND, f"there was never a route {route}", "see `traffic-manager routes list`")
        )
    has_more = not show_all and len(changes) > limit
    changes = changes if show_all else changes[:limit]
    if form is Format.JSON:
        document = {"changes": [asdict(c) for c in changes], "truncated": found.truncated}
        output.document(document | {"has_more": has_more})
    else:
        output.history_table(changes)
    if has_more:
        output.note(f"there are more than {limit}: --limit or --all shows them")
    elif found.truncated:
        output.note("older changes are no longer kept")


class _History:
    """The changes of *key*, page after page; *truncated* is known once the last page was read."""

    def __init__(self, client: Client, key: Key) -> None:
        self._client = client
        self._key = key
        self.truncated = False

    def __iter__(self) -> Iterator[Change]:
        token: str | None = None
        while True:
            page = self._client.history(self._key, page_token=token).value
            self.truncated = page.truncated
            yield from page.changes
            token = page.next_page_token
            if token is None:
                return
