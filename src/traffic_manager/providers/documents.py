"""Fetches what a provider publishes: its configuration (OpenID Connect Discovery 1.0) and its keys (a JWKS).

Others may be at the other end: each fetch has a deadline and a size, follows no redirect, and takes keys only from
the host of the issuer or from where the settings say.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

import httpx2
import orjson

from traffic_manager.access.issuers import Issuer
from traffic_manager.access.signing_keys import SigningKeys, signing_keys_of
from traffic_manager.errors import StartRefused

FETCH_S = 2.0
MAX_BYTES = 64 * 1024
_WELL_KNOWN = "/.well-known/openid-configuration"
# So that what was counted is what was sent.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class FetchFailed(Exception):
    """A provider could not be asked, or its answer is of no use; says why. Goes no further than the keys' keeper."""


class Documents:
    """What *issuer* publishes. Close it. Raises StartRefused if its `ca_file` is bad."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._jwks_uri: str | None = issuer.jwks_uri
        self._http = httpx2.AsyncClient(
            headers=_HEADERS,
            timeout=FETCH_S,
            verify=_trust(issuer),
            follow_redirects=False,
            # One that is kept may have been closed by then: a provider that was restarted would count as away.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def signing_keys(self) -> SigningKeys:
        """Return the keys that it has now. Raises FetchFailed."""
        uri = self._jwks_uri or await self._discovered()
        try:
            keys = signing_keys_of(await self._fetched(uri))
        except (FetchFailed, ValueError) as error:
            self._jwks_uri = self._issuer.jwks_uri  # it may have moved
            raise FetchFailed(f"{uri}: {error}") from None
        self._jwks_uri = uri
        return keys

    async def _discovered(self) -> str:
        url = self._issuer.url.rstrip("/") + _WELL_KNOWN
        try:
            document = orjson.loads(await self._fetched(url))
            if not isinstance(document, dict) or document.get("issuer") != self._issuer.url:
                raise FetchFailed("is of another issuer")
            uri = urlsplit(str(document.get("jwks_uri")))
        except (FetchFailed, ValueError) as error:
            raise FetchFailed(f"{url}: {error}") from None
        if uri.scheme != "https" or uri.netloc != urlsplit(self._issuer.url).netloc:
            raise FetchFailed(f"{url}: names keys elsewhere; if that is right, set jwks_uri")
        return uri.geturl()

    async def _fetched(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(FETCH_S), self._http.stream("GET", url) as answer:
                if (
                    answer.status_code != 200
                    or answer.headers.get("Content-Encoding", "identity") != "identity"
                ):
                    raise FetchFailed(f"HTTP {answer.status_code}, or in an encoding that was not asked for")
                body = bytearray()
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > MAX_BYTES:
                        raise FetchFailed(f"is larger than {MAX_BYTES} bytes")
        except TimeoutError:
            raise FetchFailed(f"took longer than {FETCH_S} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise FetchFailed(str(error) or type(error).__name__) from None
        return bytes(body)


def _trust(issuer: Issuer) -> ssl.SSLContext | bool:
    if issuer.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=issuer.ca_file)
    except OSError as error:  # OpenSSL's errors are such, too
        raise StartRefused(
            f"AUTH_ISSUERS_FILE: issuer {issuer.name}: ca_file: holds no certificates in PEM: {error.strerror}"
        ) from None
