"""Page tokens: where the next page begins, bound to what was asked for.

Made of `[A-Za-z0-9_-]`, opaque to callers. A token given back with another question, or changed, is refused; what
it says is no secret, so a checksum is enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TypeVar

import orjson

from traffic_manager.errors import FieldProblem, InvalidInput
from traffic_manager.routing.model import RouteKey

Asked = Sequence[str | bool | None]
Place = TypeVar("Place", RouteKey, int, str)


def token_of(last: RouteKey | int | str, asked: Asked) -> str:
    """Return the token of the page that follows *last*."""
    place = list(last) if isinstance(last, tuple) else last
    document = orjson.dumps([_digest(asked, place), place])
    return base64.urlsafe_b64encode(document).decode().rstrip("=")


def key_after(token: str | None, asked: Asked) -> RouteKey | None:
    """Return the key that a page of routes begins after; None: from the start."""
    place = _place(token)
    if token is None or place is None:
        return None
    if not isinstance(place, list) or not all(isinstance(name, str) for name in place) or len(place) != 4:
        raise _invalid()
    try:
        return _checked(RouteKey.of(*place), token, asked)
    except InvalidInput as error:
        raise _invalid() from error


def revision_below(token: str | None, asked: Asked) -> int | None:
    """Return the revision that a page of history begins below; None: from the newest."""
    place = _place(token)
    if token is None or place is None:
        return None
    if type(place) is not int or not 0 < place < 2**53:
        raise _invalid()
    return _checked(place, token, asked)


def id_after(token: str | None, asked: Asked) -> str:
    """Return the id that a page of things with ids begins after; empty: from the start."""
    place = _place(token)
    if token is None or place is None:
        return ""
    if not isinstance(place, str):
        raise _invalid()
    return _checked(place, token, asked)


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


def _checked(place: Place, token: str, asked: Asked) -> Place:
    """Return *place* if *token* is the one token that we make for it, to the last bit."""
    if token != token_of(place, asked):
        raise _invalid()
    return place


def _digest(asked: Asked, place: object) -> str:
    return hashlib.sha256(orjson.dumps([list(asked), place])).hexdigest()[:8]


def _invalid() -> InvalidInput:
    detail = "must be the next_page_token of the same question"
    return InvalidInput(FieldProblem("page_token", "invalid-page-token", detail))
