"""Turns the facts of one event into one line of at most 8 KiB, whatever the facts hold; never raises.

Long text is shortened and says by how much; line breaks, terminal controls and characters that reorder text
are escaped, so that no value can forge a line or drive a terminal. Of an API key that somebody has written where it
does not belong, such as in a path, only the public part stays.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from structlog.dev import ConsoleRenderer
from structlog.typing import EventDict

MAX_LINE_BYTES = 8192
_FIRST = ("timestamp", "level", "logger", "event")
_ESSENTIAL = (*_FIRST, "correlation_id", "exception")
# Characters of a text; of a stack four times as many. The second is for events of many or very long facts.
_LIMITS = (1024, 128)
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
# In UTF-8: DEL, C1 controls, the Unicode line separators, and the marks that reverse the order of text.
_KEY = re.compile(rb"(tmk_[0-9A-Za-z]{12}_)\w+", re.ASCII)
_TRAPS = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")

# Any: the value of a fact may be anything that somebody logged.
Facts = dict[str, Any]


def json_line(facts: EventDict) -> bytes:
    """Return *facts* as one JSON object. If they are too many for a line, only the essential ones and how
    many were left out."""
    ordered = _ordered(facts)
    for limit in _LIMITS:
        line = _json({name: _shortened(name, fact, limit) for name, fact in ordered.items()})
        if len(line) < MAX_LINE_BYTES:
            return without_keys(line)
    return without_keys(_json(_essential(ordered)))


def without_keys(text: bytes) -> bytes:
    """Return *text* without the secrets of API keys in it."""
    return _KEY.sub(rb"\1***", text) if b"tmk_" in text else text


class ConsoleLines:
    """Renders lines for people. A stack follows its line, each of its lines marked by a bar."""

    def __init__(self, is_coloured: bool) -> None:
        self._render = ConsoleRenderer(colors=is_coloured, sort_keys=False, pad_event_to=30)

    def __call__(self, facts: EventDict) -> bytes:
        ordered = _ordered(facts)
        for limit in _LIMITS:
            if len(line := self._line(ordered, limit)) < MAX_LINE_BYTES:
                return without_keys(line)
        return without_keys(self._line(_essential(ordered), _LIMITS[-1])[: MAX_LINE_BYTES - 1])

    def _line(self, facts: Facts, limit: int) -> bytes:
        shown = {name: _shortened(name, fact, limit) for name, fact in facts.items()}
        stack = _text(shown.pop("exception", "")).splitlines()
        safe = {_printable(_text(name)): _printable(_text(fact)) for name, fact in shown.items()}
        line = self._render(None, "", safe)
        return "\n".join([line, *(f"    | {_printable(part)}" for part in stack)]).encode()


def _ordered(facts: EventDict) -> Facts:
    return {name: facts[name] for name in _FIRST if name in facts} | dict(facts)


def _essential(facts: Facts) -> Facts:
    kept = {name: _shortened(name, _text(facts[name]), _LIMITS[-1]) for name in _ESSENTIAL if name in facts}
    return {**kept, "fields_left_out": len(facts) - len(kept)}


def _shortened(name: str, fact: Any, limit: int) -> Any:
    """Return *fact*, a long text cut to *limit*: of a stack the end is kept, for there is the error."""
    if not isinstance(fact, str) and (limit == _LIMITS[0] or isinstance(fact, bool | int | float | None)):
        return fact
    text = _text(fact)
    if name == "exception":
        limit *= 4
        return text if len(text) <= limit else f"[{len(text) - limit} characters before]…{text[-limit:]}"
    return text if len(text) <= limit else f"{text[:limit]}…[{len(text) - limit} characters more]"


def _json(facts: Facts) -> bytes:
    try:
        line = orjson.dumps(facts, default=str, option=_OPTIONS)
    except Exception:  # a lone surrogate, a huge integer, a cycle, a __str__ that raises
        line = orjson.dumps({_text(name): _text_if_needed(fact) for name, fact in facts.items()})
    return line if line.isascii() and b"\x7f" not in line else _TRAPS.sub(_escaped, line)


def _text_if_needed(fact: Any) -> Any:
    is_plain = isinstance(fact, float | None) or (isinstance(fact, int) and fact.bit_length() < 64)
    return fact if is_plain else _text(fact)


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())


def _text(fact: Any) -> str:
    try:
        text = fact if isinstance(fact, str) else str(fact)
    except Exception:
        text = f"<unprintable {type(fact).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
