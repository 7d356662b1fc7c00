"""The arguments and options that several commands share, each written once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traffic_manager import __version__
from traffic_manager.cli.output import Format, ListFormat
from traffic_manager.errors import InvalidInput
from traffic_manager.routing.model import NAME_FIELDS, RouteKey, name_problem

if TYPE_CHECKING:
    from traffic_manager.client import Client, Filter

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 10.0
# For so long a change that gets no answer is sent again, under the same idempotency key.
DEFAULT_RETRY_S = 5.0
REASON_MAX_CHARACTERS = 256


def _key(text: str) -> RouteKey:
    names = text.split("/")
    if len(names) != len(NAME_FIELDS):
        raise typer.BadParameter("must be TENANT/SERVICE/ENV/VERSION, such as team-a/payments/prod/v2")
    try:
        return RouteKey.of(*names)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None


def checked_name(param: typer.CallbackParam, value: str | None) -> str | None:
    """Return the name if it can be one of a route, as the callback of an option that is called like its field."""
    problem = None if value is None else name_problem(str(param.name), value)
    if problem:
        raise typer.BadParameter(problem.detail)
    return value


def _server(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise typer.BadParameter("must begin with http:// or https://")
    return value


def _one_line(value: str | None) -> str | None:
    """Return the reason as a header can have it; a variable that is set to nothing is none."""
    text = value.strip() if value else ""
    if not text.isprintable() or len(text) > REASON_MAX_CHARACTERS:
        raise typer.BadParameter(f"must be one line of at most {REASON_MAX_CHARACTERS} characters")
    return text or None


def _etag(value: str | None) -> str | None:
    """Return the header's value: an etag may be given with or without its quotes."""
    if value is None or value == "*" or '"' in value:
        return value
    if not (value.isascii() and value.isprintable()):
        raise typer.BadParameter("must be the etag that `routes get` shows, or *")
    return f'"{value}"'


RouteArgument = Annotated[
    RouteKey,
    typer.Argument(parser=_key, metavar="TENANT/SERVICE/ENV/VERSION", help="The route.", show_default=False),
]
RouteArguments = Annotated[
    list[RouteKey],
    typer.Argument(
        parser=_key,
        metavar="TENANT/SERVICE/ENV/VERSION...",
        help="The route, or several.",
        show_default=False,
    ),
]
UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="The URL that serves it.", show_default=False)
]

Tenant = Annotated[str | None, typer.Option("--tenant", callback=checked_name, help="Only this tenant.")]
Service = Annotated[str | None, typer.Option("--service", callback=checked_name, help="Only this service.")]
Env = Annotated[str | None, typer.Option("--env", callback=checked_name, help="Only this environment.")]
Version = Annotated[str | None, typer.Option("--version", callback=checked_name, help="Only this version.")]
Active = Annotated[
    bool | None,
    typer.Option("--active/--inactive", help="Only active, or only inactive routes.", show_default=False),
]

IfMatch = Annotated[
    str | None,
    typer.Option(
        "--if-match",
        metavar="ETAG",
        callback=_etag,
        help="Do it only if the route is still as `routes get` showed it; `*`: only if it exists.",
    ),
]

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="TM_API_KEY_FILE",
        metavar="FILE",
        help="The file of the API key to show; else the variable TM_API_KEY.",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="TM_CA_FILE",
        metavar="FILE",
        help="The authorities, in PEM, of an HTTPS server's certificate; else those of the system.",
    ),
]
CertFile = Annotated[
    Path | None,
    typer.Option(
        "--cert-file",
        envvar="TM_CERT_FILE",
        metavar="FILE",
        help="Your own certificate and its private key, both in PEM, for an HTTPS server that asks for one.",
    ),
]
Server = Annotated[
    str,
    typer.Option("--server", envvar="TM_URL", metavar="URL", callback=_server, help="Where the server is."),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, max=600, metavar="SECONDS", help="How long to wait for it.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="`table` for people, `json` for programs.")]
ListOutput = Annotated[
    ListFormat,
    typer.Option("--output", "-o", help="`table` for people, `json` for programs, `csv` as import reads it."),
]

Reason = Annotated[
    str | None,
    typer.Option(
        "--reason",
        envvar="TM_REASON",
        metavar="TEXT",
        callback=_one_line,
        help="Why: for the log of changes, with each change that the command makes.",
    ),
]


@dataclass(frozen=True)
class Files:
    """The files of this run of the program that connecting needs."""

    key: Path | None = None
    authorities: Path | None = None
    certificate: Path | None = None


# Set before any command begins.
_files = Files()


_reason: str | None = None


def use_files(files: Files) -> None:
    """Have commands connect with *files*."""
    global _files
    _files = files


def files() -> Files:
    """Return the files to connect with."""
    return _files


def use_reason(text: str | None) -> None:
    """Have commands give *text* for the changes that they make."""
    global _reason
    _reason = text


def reason() -> str | None:
    """Return why changes are made, None if nobody says."""
    return _reason


def api_key() -> str | None:
    """Return the key to show: from --key-file, else from the variable TM_API_KEY. There is no option that takes it:
    other users of this machine can read what a command was called with."""
    try:
        text = (_files.key.read_text() if _files.key else os.environ.get("TM_API_KEY", "")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--key-file: cannot be read: {error}") from None
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise typer.BadParameter("--key-file or TM_API_KEY: must hold one key and nothing else")
    return text or None


def connect(server: str, timeout_s: float, *, retry_s: float = DEFAULT_RETRY_S) -> Client:
    """Return a client of *server*; it connects with its first call."""
    from traffic_manager.client import Client

    agent = f"traffic-manager/{__version__}"
    try:
        return Client(
            server,
            api_key=api_key(),
            ca_file=_files.authorities,
            cert_file=_files.certificate,
            timeout_s=timeout_s,
            retry_s=retry_s,
            user_agent=agent,
        ).giving(_reason)
    except ValueError as error:
        raise typer.BadParameter(f"--server or TM_URL, --ca-file, --cert-file: {error}") from None


def wanted(tenant: str | None, service: str | None, env: str | None, version: str | None) -> Filter:
    """Return the filter that the four options make."""
    from traffic_manager.client import Filter

    return Filter(tenant, service, env, version)
