"""What a valid URL of a route is: our own grammar, stricter than RFC 3986, checked before any library's.

`urlsplit` silently drops tabs and a leading NUL and finds another host behind a backslash, so a URL that only
it accepts could mean different things to us and to the caller. URLs are stored byte for byte as given.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import idna

from traffic_manager.errors import FieldProblem

URL_MAX_CHARACTERS = 2048
DEFAULT_SCHEMES = ("https", "http")

_SHAPE = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]*\]|[^:@\[\]]*)(?::(?P<port>[^:]*))?")
_IS_TEXT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?#%\[\]-]*").fullmatch
_IS_ESCAPED = re.compile(r"(?:[^%\[\]]|%[0-9A-Fa-f]{2})*").fullmatch
# What most are, and then need no closer look: nothing escaped, no segment that begins with a dot.
_IS_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*+/?").fullmatch
_HAS_CONTROL = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])").search
_ESCAPED_DOT = re.compile("%2e", re.IGNORECASE)
_IS_PORT = re.compile(r"[1-9][0-9]{0,4}").fullmatch
_IS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch
_IS_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DENIED_NETWORKS = tuple(
    ipaddress.ip_network(n)
    for n in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "ff00::/8")
)
# Names and addresses under which clouds serve instance credentials.
_METADATA = {"metadata.google.internal", "metadata", "fd00:ec2::254", "100.100.100.200"}
# By tenant, and `*` for those that are not named: hosts, `*.example.com` for all below it, `*` for any.
HostsByTenant = Mapping[str, tuple[str, ...]]
ANY = "*"


@dataclass(frozen=True)
class UrlPolicy:
    """Which URLs an installation takes beyond the grammar. *hosts*: where the routes of tenants may point to; without
    an entry anywhere."""

    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    deny_loopback: bool = False
    hosts: HostsByTenant = field(default_factory=dict, hash=False)

    def problem(self, url: str, tenant: str | None = None) -> FieldProblem | None:
        """Return the first rule that *url* breaks, None if it may be stored for *tenant* (None: for one that may
        point anywhere)."""
        code_and_detail = self._problem(url) or (self._tenant_problem(url, tenant) if self.hosts else None)
        return FieldProblem("url", *code_and_detail) if code_and_detail else None

    def _tenant_problem(self, url: str, tenant: str | None) -> tuple[str, str] | None:
        permitted = self.hosts.get(tenant or "", self.hosts.get(ANY))
        if tenant is None or permitted is None:
            return None
        host = _host_of(url)
        if any(_is_among(host, pattern) for pattern in permitted):
            return None
        return (
            "url-tenant",
            f"must not point to {host}: this tenant's routes point to hosts of its own",
        )

    def _problem(self, url: str) -> tuple[str, str] | None:
        if len(url) > URL_MAX_CHARACTERS:
            return "url-length", f"must be at most {URL_MAX_CHARACTERS} characters long"
        if not _IS_TEXT(url):
            return "url-characters", "must hold only the ASCII characters of RFC 3986: escape others"
        shape = _SHAPE.fullmatch(url)
        if not shape or shape["scheme"] not in self.schemes:
            return "url-scheme", f"must begin with {' or '.join(s + '://' for s in self.schemes)}"
        if shape["fragment"] is not None:
            return "url-fragment", "must not have a fragment (#)"
        return self._authority_problem(shape["authority"]) or _path_problem(shape["path"], shape["query"])

    # Many routes of a tenant share a host.
    @lru_cache(maxsize=1024)  # noqa: B019 of few policies, which live as long as the process
    def _authority_problem(self, authority: str) -> tuple[str, str] | None:
        if "@" in authority:
            return "url-userinfo", "must not hold a user name or password"
        parts = _AUTHORITY.fullmatch(authority)
        if not parts or not parts["host"]:
            return "url-host", "must name a host in lower case"
        port = parts["port"]
        if port is not None and not (_IS_PORT(port) and int(port) <= 65535):
            return "url-port", "must have a port from 1 to 65535, or none"
        return self._host_problem(parts["host"])

    def _host_problem(self, host: str) -> tuple[str, str] | None:
        address = _address(host)
        if address is None:
            return _host_name_problem(host) or self._name_policy_problem(host)
        addresses = (address, *_embedded(address))
        if any(_is_denied(a) for a in addresses):
            return "url-address", "must not be a metadata, link-local, multicast or reserved address"
        if self.deny_loopback and any(a.is_loopback for a in addresses):
            return "url-address", "must not be a loopback address here"
        return None

    def _name_policy_problem(self, host: str) -> tuple[str, str] | None:
        if host in _METADATA:
            return "url-address", "must not be a metadata service"
        if self.deny_loopback and (host == "localhost" or host.endswith(".localhost")):
            return "url-address", "must not be a loopback address here"
        return None


def host_pattern_problem(pattern: str) -> str | None:
    """Return why *pattern* could be no host of a list by tenant, None if it can."""
    if pattern == ANY:
        return None
    host = pattern.removeprefix("*.")
    if _address(host) is None and _host_name_problem(host):
        return "is neither a host, nor *. before one, nor *"
    return "an address has nothing below it" if host != pattern and _address(host) else None


def _host_of(url: str) -> str:
    """Return the host of a *url* that keeps to the grammar."""
    shape = _SHAPE.fullmatch(url)
    parts = _AUTHORITY.fullmatch(shape["authority"]) if shape else None
    return parts["host"] if parts else ""


def _is_among(host: str, pattern: str) -> bool:
    return pattern in (ANY, host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    """Return the address that *host* spells in its one canonical form, else None."""
    if not host.startswith("[") and not host[-1:].isdigit():
        return None  # what most are is told without trying: the attempt costs more than all other checks
    bare = host[1:-1] if host.startswith("[") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    is_bracketed = host.startswith("[")
    return address if _spelled(address) == bare and is_bracketed == (address.version == 6) else None


def _spelled(address: _Address) -> str:
    """Return an address in its one form: Python 3.13 and newer write an IPv4 address within one with dots."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}" if mapped else str(address)


def _embedded(address: _Address) -> list[_Address]:
    """Return the IPv4 addresses that an IPv6 address carries: traffic for it ends up there."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[_Address] = [a for a in (address.ipv4_mapped, address.sixtofour) if a is not None]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def _is_denied(address: _Address) -> bool:
    is_mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return is_mapped or str(address) in _METADATA or any(address in n for n in _DENIED_NETWORKS)


def _host_name_problem(host: str) -> tuple[str, str] | None:
    labels = host.split(".")
    if len(host) > 253 or not all(_IS_LABEL(label) for label in labels) or _IS_NUMBER(labels[-1]):
        return (
            "url-host",
            "must be a host name of lower-case letters, digits and hyphens, or a canonical address",
        )
    if any(label[2:4] == "--" and not _is_a_label(label) for label in labels):
        return "url-host", "must hold only valid internationalised labels (xn--)"
    return None


def _is_a_label(label: str) -> bool:
    try:
        return idna.alabel(idna.ulabel(label)) == label.encode()
    except idna.IDNAError:
        return False


def _path_problem(path: str | None, query: str | None) -> tuple[str, str] | None:
    path, query = path or "", query or ""
    if not query and _IS_PLAIN_PATH(path):
        return None
    if not _IS_ESCAPED(path + query):
        return "url-escape", "must have two hex digits after each %, and no brackets in path or query"
    if _HAS_CONTROL(path + query):
        return "url-escape", "must not hold escaped control characters"
    segments = (_ESCAPED_DOT.sub(".", path) if "%" in path else path).split("/")
    if any(segment in (".", "..") for segment in segments):
        return "url-path", "must not have '.' or '..' segments"
    return None
