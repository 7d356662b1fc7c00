"""The header `Idempotency-Key`: a request that has one is done once, however often it is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable

from traffic_manager.errors import FieldProblem, InvalidInput

HEADER = b"idempotency-key"
REPLAYED = (b"idempotency-replayed", b"?1")
_MAX_CHARACTERS = 255
# A string of RFC 9651, as the draft of the header wants it, or the same without the quotes, as many send it.
_is_key = re.compile(rb'("?)([!#-\[\]-~]{1,%d})\1' % _MAX_CHARACTERS).fullmatch


def idempotency_key_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the idempotency key of a request, None without one. Raises InvalidInput for one that is ill-formed, and
    for several."""
    given = [value for name, value in headers if name == HEADER]
    if not given:
        return None
    match = _is_key(given[0])
    if match is None or len(given) > 1:
        rule = f"must be 1 to {_MAX_CHARACTERS} visible ASCII characters without quotes and backslashes, once"
        raise InvalidInput(FieldProblem("Idempotency-Key", "invalid-idempotency-key", rule))
    return match[2].decode()
