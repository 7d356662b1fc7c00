"""A real OpenID provider (npm's oidc-provider), which speaks TLS and signs with the keys that it is given.

The package does not import it: `install` has to run with nothing but Python itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from tests.access.authority import SERVER, Authority

from . import programs
from .server import Server

SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
CLIENT = {"client_id": "ci", "client_secret": "only-for-tests"}


class OidcProvider(Server):
    """Issues tokens for *audience* to its one client, signed with the first of *keys* (a private JWKS). Keys that
    are set while it is stopped are in use after the next start."""

    name = "oidc-provider"

    def __init__(
        self, authority: Authority, keys: Mapping[str, Any], audience: str = "traffic-manager"
    ) -> None:
        super().__init__()
        self.keys = keys
        self._audience = audience
        self._authority = authority
        self._pair = authority.issue(*SERVER, is_server=True)

    @property
    def issuer(self) -> str:
        """What its tokens say of who issued them."""
        return f"https://{self.host}:{self.port}"

    def described(self) -> dict[str, Any]:
        """Return its entry in the file of issuers."""
        return {
            "name": "provider",
            "issuer": self.issuer,
            "audiences": [self._audience],
            "algorithms": ["RS256"],
            "grants": {"groups": {"team-a": ["editor:team-a/*"]}},
            "ca_file": str(self._authority.file),
        }

    def token(self) -> str:
        """Return a new token, got as a program gets one."""
        answer = httpx2.post(
            f"{self.issuer}/token",
            data={"grant_type": "client_credentials"},
            auth=(CLIENT["client_id"], CLIENT["client_secret"]),
            verify=self._authority.trust(),
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def env(self) -> dict[str, str]:
        file = self.folder / "issuers.json"
        file.write_text(json.dumps([self.described()]))
        return {"AUTH_ISSUERS_FILE": str(file)}

    def _create(self) -> None:
        """Write the file: the port may be another at each start, so it comes with the command."""

    def _command(self) -> Sequence[str | Path]:
        told = {
            "library": (programs.oidc_provider() / "lib" / "index.js").as_uri(),
            "issuer": self.issuer,
            "host": self.host,
            "port": self.port,
            "audience": self._audience,
            "algorithm": "RS256",
            "groups": ["team-a"],
            "jwks": self.keys,
            "client": CLIENT,
            "cert_file": str(self._pair[0]),
            "key_file": str(self._pair[1]),
        }
        file = self.folder / "provider.json"
        file.write_text(json.dumps(told))
        return [programs.node(), SCRIPT, file]

    def _is_ready(self) -> bool:
        try:
            url = f"{self.issuer}/.well-known/openid-configuration"
            return httpx2.get(url, verify=self._authority.trust(), timeout=2.0).status_code == 200
        except httpx2.HTTPError:
            return False
