"""Commands that change one route: routes create, put, activate, deactivate, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import told
from traffic_manager.cli.output import Format


def register(routes_app: typer.Typer) -> None:
    """Add these commands."""
    routes_app.command("create")(create)
    routes_app.command("put")(put)
    routes_app.command("activate")(activate)
    routes_app.command("deactivate")(deactivate)
    routes_app.command("delete")(delete)


PutActive = Annotated[
    bool | None,
    typer.Option(
        "--active/--inactive",
        help="The state to give it. Default: as it is, active if new.",
        show_default=False,
    ),
]


def create(
    route: options.RouteArgument,
    url: options.UrlArgument,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Create an active route. A different one that is there already is a conflict."""
    with told(), options.connect(server, timeout) as client:
        reply = client.create(route, url)
    output.route(reply, form)


def put(
    route: options.RouteArgument,
    url: options.UrlArgument,
    active: PutActive = None,
    if_match: options.IfMatch = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Create or replace a route."""
    with told(), options.connect(server, timeout) as client:
        reply = client.put(route, url, is_active=active, if_match=if_match)
    output.route(reply, form)


def activate(
    route: options.RouteArgument,
    if_match: options.IfMatch = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Make a route active: resolve answers with it."""
    with told(), options.connect(server, timeout) as client:
        reply = client.activate(route, if_match=if_match)
    output.route(reply, form)


def deactivate(
    route: options.RouteArgument,
    if_match: options.IfMatch = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Make a route inactive: it stays, but resolve does not find it."""
    with told(), options.connect(server, timeout) as client:
        reply = client.deactivate(route, if_match=if_match)
    output.route(reply, form)


def delete(
    route: options.RouteArgument,
    if_match: options.IfMatch = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Delete a route. Its history stays."""
    with told(), options.connect(server, timeout) as client:
        reply = client.delete(route, if_match=if_match)
    position = str(reply.position) if reply.position else None
    if form is Format.JSON:
        output.document(route._asdict() | {"action": "deleted", "tm_revision": position})
    else:
        output.line(f"deleted {route} ({position})")
