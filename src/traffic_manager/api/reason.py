"""The header `TM-Reason`: why a change is made. It stands in the log of changes, so it is short and clean."""

from __future__ import annotations

from collections.abc import Iterable

from traffic_manager.errors import FieldProblem, InvalidInput

HEADER = b"tm-reason"
MAX_CHARACTERS = 256
FIELD = "TM-Reason"
# Nobody sees these: a space, and what passes for printable and is shown as one (Braille, Hangul).
_BLANK = ", \u2800\u115f\u1160\u3164\uffa0"


def reason_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return why a request wants a change, None if it does not say. Raises InvalidInput for what is no line of text:
    too long, not UTF-8, or nothing that anybody sees."""
    given = [value for name, value in headers if name == HEADER]
    if not given:
        return None
    try:
        # Several are one with commas (RFC 9110, 5.3); the documented routes see them so already.
        reason = b", ".join(given).decode()
    except UnicodeDecodeError:
        reason = ""
    # Empty ones that were joined are none either.
    if not reason.strip(_BLANK) or len(reason) > MAX_CHARACTERS or not reason.isprintable():
        rule = f"must be 1 to {MAX_CHARACTERS} printable characters in UTF-8"
        raise InvalidInput(FieldProblem(FIELD, "invalid-reason", rule))
    return reason


def missing_reason() -> InvalidInput:
    """Return the error for a change that needs a reason and has none."""
    detail = "this tenant's routes are changed only for a reason that is given"
    return InvalidInput(FieldProblem(FIELD, "missing-reason", detail))
