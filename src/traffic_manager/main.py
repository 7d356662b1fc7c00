"""Start here: checks what can be checked, then runs the workers, or the relay alone, until told to stop."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from traffic_manager import failpoints
from traffic_manager.api.admission import most_connections
from traffic_manager.api.server import FINISH_S, bind
from traffic_manager.config.settings import Settings
from traffic_manager.db.migrate import check_schema, migrate
from traffic_manager.db.pool import open_database
from traffic_manager.db.sqlite import FileLock
from traffic_manager.errors import SourceUnavailable, StartRefused
from traffic_manager.gauges import counters_of
from traffic_manager.inheritance import Inheritance, empty_memory
from traffic_manager.monitoring.heartbeats import Heartbeats
from traffic_manager.monitoring.log_level import SIGNALS, LevelSwitch
from traffic_manager.monitoring.log_writer import LogWriter
from traffic_manager.monitoring.metric_files import clear, forget_worker
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.outbox import Outbox
from traffic_manager.parent import EXIT_REFUSED, Parent
from traffic_manager.traces import check_library, open_tracing
from traffic_manager.worker import Worker, import_parts

# Beyond draining and finishing: closing pools, releasing the lease.
_CLOSE_S = 15.0
_DEFAULT_PORT = 8000
_NOFILE = resource.RLIMIT_NOFILE
# No worker ever holds more, and some systems' limit is a billion.
_MOST_FILES = 2**20

log = structlog.get_logger(__name__)


def serve(settings: Settings, log_writer: LogWriter, *, migrate_first: bool = False) -> int:
    """Run the server until SIGTERM or Ctrl-C and return its exit code. Raises StartRefused."""
    level = LevelSwitch(settings.app.log_level)
    level.listen()
    empty_memory(settings)  # refuses what could not be guarded, before anything is done
    check_library(settings.traces)
    failpoints.arm(os.environ, is_development=settings.app.is_development)
    if settings.db.is_postgres:
        return _serve(settings, log_writer, level, migrate_first)
    lock = FileLock(settings.db.path)
    lock.acquire()
    try:
        return _serve(settings, log_writer, level, migrate_first=True)
    finally:
        lock.release()


def _serve(settings: Settings, log_writer: LogWriter, level: LevelSwitch, migrate_first: bool) -> int:
    if migrate_first:
        migrate(settings.db)
    _check_database(settings)
    listener = _listen(settings)
    files = _raise_open_files()
    log.info(
        "listening",
        address=f"{settings.host}:{settings.api.port}",
        workers=settings.api.workers,
        tls=settings.tls.is_on,
        open_files=files,
        connections=most_connections(settings) * settings.api.workers,
    )
    if settings.app.is_development:
        _print_welcome(settings)
    if not settings.db.is_postgres:
        code = _run_worker(
            lambda: Worker(settings, Metrics(), empty_memory(settings), lambda: log_writer.dropped),
            listener,
            log_writer,
        )
        return 1 if code == EXIT_REFUSED else code
    return _run_workers(settings, listener, log_writer, level)


def _check_database(settings: Settings) -> None:
    """Raise SchemaMismatch if the tables are wrong. A database that is away now is no reason not to start."""
    database = open_database(settings.db, counters_of(Metrics()))
    try:
        connection = database.connect()
        with connection.reading() as session:
            check_schema(session, database.dialect)
        connection.close()
    except SourceUnavailable as error:
        log.warning("database_away_at_start", reason=str(error))


def _listen(settings: Settings) -> socket.socket:
    try:
        return bind(settings.host, settings.api.port)
    except OSError as error:
        where = f"{settings.host}:{settings.api.port}"
        raise StartRefused(f"API_HOST, API_PORT: cannot listen on {where}: {error.strerror}") from error


def _raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one, for workers to inherit, and return it: each connection
    is one, and 1,024, the usual soft limit, is for programs that call select()."""
    soft, hard = (_MOST_FILES if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(_NOFILE))
    wanted = min(hard, _MOST_FILES)
    if wanted <= soft:
        return soft
    try:
        resource.setrlimit(_NOFILE, (wanted, resource.getrlimit(_NOFILE)[1]))
    except (ValueError, OSError):  # some systems allow less than they say
        return soft
    return wanted


def _run_worker(worker: Callable[[], Worker], listener: socket.socket, log_writer: LogWriter) -> int:
    log_writer.start()
    try:
        return worker().run(listener)
    finally:
        log_writer.stop()


def _run_workers(
    settings: Settings, listener: socket.socket, log_writer: LogWriter, level: LevelSwitch
) -> int:
    # In memory where there is such a place: the files are mapped, and a disk would write them for nothing.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 made by mkdtemp
    directory = Path(tempfile.mkdtemp(prefix="traffic-manager-metrics-", dir=memory))
    clear(directory)
    estate = _Estate(settings, directory, listener)
    hearts = Heartbeats(settings.api.workers)
    import_parts(settings)
    log_writer.never_wait()

    def work(index: int) -> int:
        def worker() -> Worker:
            return Worker(
                settings,
                Metrics(directory, index),
                estate.inheritance.memory,
                lambda: log_writer.dropped,
                partial(hearts.beat, index),
                hearts.are_all_stopping,
            )

        return _run_worker(worker, listener, log_writer)

    patience_s = settings.app.drain_s + FINISH_S + _CLOSE_S
    parent = Parent(settings.api.workers, work, estate, hearts, patience_s)
    level.pass_on = parent.pass_on
    try:
        return parent.run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Estate:
    """What the parent keeps for its workers: their table, and the files of their metrics."""

    def __init__(self, settings: Settings, directory: Path, listener: socket.socket) -> None:
        self._directory = directory
        self._listener = listener
        self.inheritance = Inheritance(settings)
        self.tend = self.inheritance.follow
        self.before_fork = self.inheritance.before_fork
        self.ended = self.inheritance.ended
        self.close = self.inheritance.close

    def stop(self) -> None:
        """Follow no more, and leave the socket to the workers: when the last of them closes it, clients are refused,
        and do not wait for somebody who accepts no more."""
        self.inheritance.stop()
        self._listener.close()

    def buried(self, index: int) -> None:
        """Remove what a dead worker last said of itself."""
        forget_worker(self._directory, index)


def run_relay(settings: Settings) -> int:
    """Send changes to Kafka until SIGTERM or Ctrl-C and return the exit code. Raises StartRefused."""
    if not settings.kafka.bootstrap_servers:
        raise StartRefused("KAFKA_BOOTSTRAP_SERVERS: must be set to relay")
    check_library(settings.traces)
    failpoints.arm(os.environ, is_development=settings.app.is_development)
    _check_database(settings)
    # Before any thread starts, so that none of them takes a signal: a handler that set an event could meet
    # this thread inside that event's lock.
    signals = {signal.SIGTERM, signal.SIGINT, *SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    level = LevelSwitch(settings.app.log_level)
    metrics = Metrics()
    database = open_database(settings.db, counters_of(metrics))
    database.open()
    tracing = open_tracing(settings.traces, metrics)
    outbox = Outbox(settings.kafka, database, metrics, tracing)
    outbox.start_relay()
    while (number := signal.sigwait(signals)) in SIGNALS:
        level.take(number)
    outbox.close()
    database.close()
    if tracing:
        tracing.close()
    return 0


def _print_welcome(settings: Settings) -> None:
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 a comparison
    base = f"{'https' if settings.tls.is_on else 'http'}://{host}:{settings.api.port}"
    # The commands ask port 8000 unless they are told otherwise: they must not change somebody else's server.
    told = "" if settings.api.port == _DEFAULT_PORT else f"TM_URL={base} "
    sys.stderr.write(_WELCOME.format(base=base, where=_where(settings), told=told))
    sys.stderr.flush()


def _where(settings: Settings) -> str:
    return f"PostgreSQL on {settings.db.host}" if settings.db.is_postgres else f"SQLite in {settings.db.path}"


_WELCOME = """
Traffic Manager serves {base} ({where}). Try in another terminal:

  curl -X POST {base}/api/v1/routes -H "Content-Type: application/json" \\
    -d '{{"tenant": "team-a", "service": "payments", "env": "prod", "version": "v2",
         "url": "https://payments.example.com/v2"}}'
  curl "{base}/api/v1/routes/resolve?tenant=team-a&service=payments&env=prod&version=v2"
  {told}.venv/bin/traffic-manager routes import examples/aws-endpoints.csv
  {told}.venv/bin/traffic-manager changes --follow

The API: {base}/docs   Health: {base}/health/ready   Metrics: {base}/metrics   Stop: Ctrl-C

"""
