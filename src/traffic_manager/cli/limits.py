"""The commands on limits: how much tenants and principals may ask for and have."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager.cli import options, output
from traffic_manager.cli.exits import told
from traffic_manager.cli.output import Format
from traffic_manager.routing.model import name_problem

if TYPE_CHECKING:
    from traffic_manager.client import Client, Limit

_FIGURES = ("resolves", "writes", "lists", "routes", "keys")
# As the server takes them.
_MOST = 1_000_000_000


class Subject(StrEnum):
    """Whose requests are counted together."""

    TENANT = "tenant"
    PRINCIPAL = "principal"


def _name(value: str) -> str:
    problem = name_problem("name", value)
    if problem:
        raise typer.BadParameter(problem.detail)
    return value


GivenSubject = Annotated[
    Subject, typer.Argument(help="A tenant, or a principal: an owner of keys.", show_default=False)
]
Name = Annotated[str, typer.Argument(callback=_name, help="Which one.", show_default=False)]
Resolves = Annotated[int | None, typer.Option("--resolves", min=0, max=_MOST, help="Resolves a second.")]
Writes = Annotated[int | None, typer.Option("--writes", min=0, max=_MOST, help="Changes a second.")]
Lists = Annotated[int | None, typer.Option("--lists", min=0, max=_MOST, help="Other reads a second.")]
Routes = Annotated[int | None, typer.Option("--routes", min=0, max=_MOST, help="Routes of a tenant.")]
Keys = Annotated[int | None, typer.Option("--keys", min=0, max=_MOST, help="Keys in force in a tenant.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    limits = typer.Typer(
        help="Limit what tenants and owners of keys may ask for and have; the settings LIMIT_* are for all others.",
        no_args_is_help=True,
    )
    limits.command("list")(list_)
    limits.command("set")(set_)
    limits.command("unset")(unset)
    app.add_typer(limits, name="limits")


def list_(
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """List what is set. An empty figure is as the server's settings say."""
    with told(), options.connect(server, timeout) as client:
        limits = _all(client)
    if form is Format.JSON:
        output.document({"limits": [asdict(limit) for limit in limits]})
    elif limits:
        _table(limits)
    else:
        output.note("nothing is set: the server's settings hold for all")


def set_(
    subject: GivenSubject,
    name: Name,
    resolves: Resolves = None,
    writes: Writes = None,
    lists: Lists = None,
    routes: Routes = None,
    keys: Keys = None,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Set figures of a tenant or a principal, everywhere within a second; the others stay as they are."""
    from traffic_manager.client import Limit

    figures = (resolves, writes, lists, routes, keys)
    given = {field: figure for field, figure in zip(_FIGURES, figures, strict=True) if figure is not None}
    if not given:
        raise typer.BadParameter("say at least one of --" + ", --".join(_FIGURES))
    with told(), options.connect(server, timeout) as client:
        wanted = Limit(**{**asdict(_of(client, subject, name)), **given})
        found = client.set_limit(wanted).value
    _show(found, form)


def unset(
    subject: GivenSubject,
    name: Name,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Set nothing for a tenant or a principal any more: then the server's settings hold."""
    from traffic_manager.client import Limit

    with told(), options.connect(server, timeout) as client:
        found = client.set_limit(Limit(subject, name)).value
    _show(found, form)


def _all(client: Client) -> list[Limit]:
    found: list[Limit] = []
    token: str | None = None
    while True:
        page = client.limits(page_token=token).value
        found.extend(page.limits)
        token = page.next_page_token
        if token is None:
            return found


def _of(client: Client, subject: str, name: str) -> Limit:
    from traffic_manager.client import Limit

    set_now = (limit for limit in _all(client) if (limit.subject, limit.name) == (subject, name))
    return next(set_now, Limit(subject, name))


def _show(limit: Limit, form: Format) -> None:
    if form is Format.JSON:
        output.document(asdict(limit))
    else:
        _table([limit])


def _table(limits: list[Limit]) -> None:
    rows = [(limit.subject, limit.name, *map(_figure, map(asdict(limit).get, _FIGURES))) for limit in limits]
    output.table(("subject", "name", *_FIGURES), rows)


def _figure(figure: int | None) -> str:
    return "" if figure is None else str(figure)
