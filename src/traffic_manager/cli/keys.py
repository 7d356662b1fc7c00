"""The commands on API keys, and whoami."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from traffic_manager.access import permissions
from traffic_manager.access.credentials import is_key_id
from traffic_manager.access.permissions import ANY, Role
from traffic_manager.cli import options, output
from traffic_manager.cli.exits import FAILED, NOT_FOUND, Failure, tell, told
from traffic_manager.cli.on_this_machine import given_settings
from traffic_manager.cli.output import Format
from traffic_manager.errors import KeyNotFound, TrafficManagerError
from traffic_manager.routing.model import name_problem

if TYPE_CHECKING:
    from traffic_manager.client import ApiKey, Client, Grant
    from traffic_manager.config.settings import Settings


def _place(param: typer.CallbackParam, value: str) -> str:
    problem = None if value == ANY else name_problem(str(param.name), value)
    if problem:
        raise typer.BadParameter(f"{problem.detail}; or * for any")
    return value


def _key_id(value: str) -> str:
    if not is_key_id(value):
        # Whole keys are given by mistake, and would stand in the path of a request.
        raise typer.BadParameter("must be the 12 characters that `keys list` shows, not the key itself")
    return value


def _owner(value: str | None) -> str | None:
    problem = None if value is None else name_problem("owner", value)
    if problem:
        raise typer.BadParameter(problem.detail)
    return value


def _written_grant(text: str) -> tuple[str, str, str]:
    try:
        role, tenant, env = permissions.Grant.parse(text).written()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return role, tenant, env


KeyId = Annotated[
    str,
    typer.Argument(
        metavar="ID", callback=_key_id, help="The key's id, as `keys list` shows it.", show_default=False
    ),
]
Owner = Annotated[
    str | None, typer.Option("--owner", callback=_owner, help="Who will hold it. Default: you.")
]
OneRole = Annotated[Role | None, typer.Option("--role", help="What it may do, where --tenant and --env say.")]
InTenant = Annotated[str, typer.Option("--tenant", callback=_place, help="In this tenant; * for any.")]
InEnv = Annotated[str, typer.Option("--env", callback=_place, help="In this environment; * for any.")]
Grants = Annotated[
    list[str] | None,
    typer.Option("--grant", metavar="ROLE:TENANT/ENV", help="A role somewhere; may be given several times."),
]
Days = Annotated[int, typer.Option("--expires-in-days", min=1, max=3650, help="For how long it lasts.")]
Overlap = Annotated[
    int, typer.Option("--overlap", min=0, max=30 * 86_400, help="Seconds that the old key goes on for.")
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    keys = typer.Typer(
        help="Make, list, replace and end API keys: at the server if you show a key or name it, else directly in "
        "the database of this machine's settings.",
        no_args_is_help=True,
    )
    keys.command("create")(create)
    keys.command("list")(list_)
    keys.command("rotate")(rotate)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")
    app.command("whoami")(whoami)


def create(
    context: typer.Context,
    owner: Owner = None,
    role: OneRole = None,
    tenant: InTenant = ANY,
    env: InEnv = ANY,
    grant: Grants = None,
    expires_in_days: Days = 365,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Make a key and print it: this once, for it is kept nowhere."""
    from traffic_manager.cli.key_desk import user_name

    grants = [_written_grant(text) for text in grant or ()]
    grants += [(role.value, tenant, env)] if role else []
    if not grants:
        raise typer.BadParameter("--role or --grant: say what the key may do")
    with _desk(context, server, timeout) as desk:
        _show_new(desk.create_key(owner or user_name(), _grants(grants), expires_in_days), form)


def list_(
    context: typer.Context,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """List the keys that you administer, those no longer in force too. Never with their secrets."""
    with _desk(context, server, timeout) as desk:
        keys = desk.keys()
    if form is Format.JSON:
        output.document({"keys": [_document(key) for key in keys]})
    elif keys:
        rows = [(k.id, k.owner, k.state, output.when(k.expires_at), _written(k.grants)) for k in keys]
        output.table(("id", "owner", "state", "expires", "grants"), rows)
    else:
        output.note("no keys")


def rotate(
    context: typer.Context,
    key_id: KeyId,
    overlap: Overlap = 86_400,
    expires_in_days: Days = 365,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Make a key with the same owner and grants and print it; the old one ends a day later, or as you say."""
    with _desk(context, server, timeout) as desk:
        _show_new(desk.rotate_key(key_id, overlap, expires_in_days), form)


def revoke(
    context: typer.Context,
    key_id: KeyId,
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """End a key for good, everywhere within a second."""
    with _desk(context, server, timeout) as desk:
        key = desk.revoke_key(key_id)
    if form is Format.JSON:
        output.document(_document(key))
    else:
        output.note(f"key {key.id} of {key.owner} is revoked")


def whoami(
    server: options.Server = options.DEFAULT_SERVER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT_S,
    form: options.Output = Format.TABLE,
) -> None:
    """Show who you are at the server, what you may do where, and what says so."""
    with told(), options.connect(server, timeout) as client:
        found = client.whoami().value
    if form is Format.JSON:
        output.document(asdict(found))
        return
    output.line(output.printable(found.name))
    if found.expires_at:
        output.note(f"by a {found.credential}, until {output.when(found.expires_at)}")
    rows = [
        (g.role, g.tenant, g.env, " ".join(g.operations), output.printable(g.source)) for g in found.grants
    ]
    output.table(("role", "tenant", "env", "operations", "source"), rows)
    if found.auth_mode == "open":
        output.note("this server asks nobody who they are")


# Where keys are


class _Desk(Protocol):
    def keys(self) -> Sequence[ApiKey]: ...

    def create_key(self, owner: str, grants: Sequence[Grant], expires_in_days: int) -> ApiKey: ...

    def rotate_key(self, key_id: str, overlap_s: int, expires_in_days: int) -> ApiKey: ...

    def revoke_key(self, key_id: str) -> ApiKey: ...


class _ServerDesk:
    """The keys of a server, by its API."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def keys(self) -> Sequence[ApiKey]:
        found: list[ApiKey] = []
        token: str | None = None
        while True:
            page = self._client.keys(page_token=token).value
            found.extend(page.keys)
            token = page.next_page_token
            if token is None:
                return found

    def create_key(self, owner: str, grants: Sequence[Grant], expires_in_days: int) -> ApiKey:
        return self._client.create_key(owner, grants, expires_in_days).value

    def rotate_key(self, key_id: str, overlap_s: int, expires_in_days: int) -> ApiKey:
        return self._client.rotate_key(key_id, overlap_s, expires_in_days).value

    def revoke_key(self, key_id: str) -> ApiKey:
        return self._client.revoke_key(key_id).value


@contextmanager
def _desk(context: typer.Context, server: str, timeout_s: float) -> Iterator[_Desk]:
    """Lend the server's keys if a key is shown or the server is named, else those of the database here."""
    source = context.get_parameter_source("server")
    is_named = source is not None and source.name != "DEFAULT"
    if is_named or options.api_key():
        with told(), options.connect(server, timeout_s) as client:
            yield _ServerDesk(client)
    else:
        with _told_of_database(), _local_desk(given_settings()) as desk:
            yield desk


@contextmanager
def _local_desk(settings: Settings) -> Iterator[_Desk]:
    from traffic_manager.cli.key_desk import KeyDesk

    place = (
        f"PostgreSQL on {settings.db.host}" if settings.db.is_postgres else f"SQLite in {settings.db.path}"
    )
    output.note(f"directly in the database: {place}")
    desk = KeyDesk(settings, options.reason())
    try:
        yield desk
    finally:
        desk.close()


@contextmanager
def _told_of_database() -> Iterator[None]:
    try:
        yield
    except KeyNotFound as error:
        raise tell(Failure(NOT_FOUND, str(error), "see `traffic-manager keys list`")) from None
    except TrafficManagerError as error:
        hint = (
            "the database and AUTH_PEPPER are those of this machine's settings: `traffic-manager config show`"
        )
        raise tell(Failure(FAILED, str(error), hint)) from None


# What is shown


def _show_new(key: ApiKey, form: Format) -> None:
    if form is Format.JSON:
        output.document(_document(key))
        return
    output.line(str(key.key))
    output.note(f"key {key.id} of {key.owner}: {_written(key.grants)}, until {output.when(key.expires_at)}")
    output.note("it is shown this once: keep it where only its holder can read it")


def _document(key: ApiKey) -> dict[str, object]:
    found = asdict(key)
    return found if key.key else {name: value for name, value in found.items() if name != "key"}


def _written(grants: Sequence[Grant]) -> str:
    return " ".join(str(grant) for grant in grants)


def _grants(written: Sequence[tuple[str, str, str]]) -> list[Grant]:
    from traffic_manager.client import Grant

    return [Grant(*grant) for grant in written]
