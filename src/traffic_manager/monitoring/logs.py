"""Sets up logging: one line per event on standard output, structlog's and the standard library's alike.

`cli` calls `configure_logging` once, before anything else is built. Modules log a static event name and its
facts: `structlog.get_logger(__name__).info("route_activated", route=str(key), revision=5)`. Facts that are
bound with `structlog.contextvars`, such as `correlation_id`, stand in every line of their request; a thread
that works for several requests binds them itself. docs/logs.md has every event; a test holds it against the source.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from traffic_manager.monitoring.log_lines import ConsoleLines, json_line
from traffic_manager.monitoring.log_writer import LogWriter
from traffic_manager.monitoring.repeats import Repeats

# They bring handlers of their own, which would write every line a second time and in another shape.
_TAKEN_OVER = ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic")

_complete: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def configure_logging(level: str, as_json: bool, fd: int = 1) -> LogWriter:
    """Write events from *level* on to *fd*, as JSON or for people (in colour on a terminal only). Returns the
    writer, for workers to `start` and `stop`; see `log_writer` for what a blocked reader means. uvicorn must
    be run with `log_config=None`, or it sets up handlers again."""
    writer = LogWriter(fd)
    render = json_line if as_json else ConsoleLines(os.isatty(fd))
    repeats = Repeats()
    structlog.configure(
        processors=[
            repeats,
            structlog.processors.add_log_level,
            structlog.stdlib.add_logger_name,
            *_complete,
            lambda _logger, _method, facts: render(facts),
        ],
        wrapper_class=_Levelled,
        logger_factory=lambda *names: _Lines(writer.write, *names),
        cache_logger_on_first_use=True,
    )
    _take_over_stdlib(_Handler(writer.write, render, repeats))
    set_level(level)
    return writer


def set_level(level: str) -> None:
    """Write events from *level* on in this process, from now on. Costs nothing later: loggers that exist, which are
    kept by whoever has them, get other methods."""
    for name, method in vars(structlog.make_filtering_bound_logger(level.lower())).items():
        if not name.startswith("__"):
            setattr(_Levelled, name, method)
    logging.getLogger().setLevel(level.upper())


class _Levelled(structlog.BoundLoggerBase):
    """A logger whose methods `set_level` has set."""


class _Lines:
    """What structlog hands finished lines to; *name* is the logger's."""

    def __init__(self, write: Callable[[bytes], None], name: str = "traffic_manager") -> None:
        self.name = name
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = write


class _Handler(logging.Handler):
    """Brings records of the standard library's logging into the same lines."""

    def __init__(
        self, write: Callable[[bytes], None], render: Callable[[EventDict], bytes], repeats: Repeats
    ) -> None:
        super().__init__()
        self._write = write
        self._render = render
        self._repeats = repeats

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Their events are no static names: what such a logger says counts as one.
            if self._repeats.admit(record.name):
                self._write(self._render(_facts(record)))
        except Exception:
            self.handleError(record)


def _facts(record: logging.LogRecord) -> EventDict:
    logger: WrappedLogger = None
    facts: EventDict = {"level": record.levelname.lower(), "logger": record.name}
    facts["event"] = record.getMessage()
    if record.exc_info:
        facts["exc_info"] = record.exc_info
    for step in _complete:
        facts = dict(step(logger, "", facts))  # type: ignore[arg-type] # only the last step gives no dict
    return facts


def _take_over_stdlib(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for known in root.handlers[:]:
        # Not subclasses: those were put there on purpose, such as the ones that test runners capture with.
        if type(known) in (logging.StreamHandler, _Handler):
            root.removeHandler(known)
    root.addHandler(handler)
    for name in _TAKEN_OVER:
        taken = logging.getLogger(name)
        taken.handlers.clear()
        taken.propagate = True
        taken.setLevel(logging.NOTSET)
