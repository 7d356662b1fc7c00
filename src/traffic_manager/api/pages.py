"""Page tokens: where the next page begins, bound to what was asked for.

Made of `[A-Za-z0-9_-]`, opaque to callers. A token given back with another question, or changed, is refused. What it
says is no secret, and leads nowhere that its caller may not look; still, where there is a pepper nobody else can make
one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import TypeVar

import orjson

from traffic_manager.errors import FieldProblem, InvalidInput
from traffic_manager.routing.model import RouteKey

Asked = Sequence[str | bool | None]
Place = TypeVar("Place", RouteKey, int, str)
# Nobody guesses one of 2 ** 96.
_DIGEST_BYTES = 12


class PageTokens:
    """Makes page tokens, and reads them. They are signed with *pepper*, if there is one."""

    def __init__(self, pepper: bytes | None) -> None:
        # Of its own: what is signed here must not pass for what the pepper is used for elsewhere.
        self._secret = hmac.digest(pepper, b"page tokens", "sha256") if pepper else b""

    def token_of(self, last: RouteKey | int | str, asked: Asked) -> str:
        """Return the token of the page that follows *last*."""
        place = list(last) if isinstance(last, tuple) else last
        document = orjson.dumps([self._digest(asked, place), place])
        return base64.urlsafe_b64encode(document).decode().rstrip("=")

    def key_after(self, token: str | None, asked: Asked) -> RouteKey | None:
        """Return the key that a page of routes begins after; None: from the start."""
        place = _place(token)
        if token is None or place is None:
            return None
        if not isinstance(place, list) or not all(isinstance(name, str) for name in place) or len(place) != 4:
            raise _invalid()
        try:
            return self._checked(RouteKey.of(*place), token, asked)
        except InvalidInput as error:
            raise _invalid() from error

    def revision_below(self, token: str | None, asked: Asked) -> int | None:
        """Return the revision that a page of history begins below; None: from the newest."""
        place = _place(token)
        if token is None or place is None:
            return None
        if type(place) is not int or not 0 < place < 2**53:
            raise _invalid()
        return self._checked(place, token, asked)

    def id_after(self, token: str | None, asked: Asked) -> str:
        """Return the id that a page of things with ids begins after; empty: from the start."""
        place = _place(token)
        if token is None or place is None:
            return ""
        if not isinstance(place, str):
            raise _invalid()
        return self._checked(place, token, asked)

    def _checked(self, place: Place, token: str, asked: Asked) -> Place:
        """Return *place* if *token* is the one token that we make for it, to the last bit."""
        if not hmac.compare_digest(token, self.token_of(place, asked)):
            raise _invalid()
        return place

    def _digest(self, asked: Asked, place: object) -> str:
        content = orjson.dumps([list(asked), place])
        return hmac.digest(self._secret, content, "sha256")[:_DIGEST_BYTES].hex()


def _place(token: str | None) -> object:
    """Return what a token holds; whether it is ours is not known yet. None without a token."""
    if token is None:
        return None
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        document = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error) as error:
        raise _invalid() from error
    if not isinstance(document, list) or len(document) != 2 or document[1] is None:
        raise _invalid()
    place: object = document[1]
    return place


def _invalid() -> InvalidInput:
    detail = "must be the next_page_token of the same question"
    return InvalidInput(FieldProblem("page_token", "invalid-page-token", detail))
