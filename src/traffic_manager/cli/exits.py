"""Exit codes, and what a person is told when a call fails: one line what, one line what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from traffic_manager.cli import output
from traffic_manager.cli.output import READER_GONE

if TYPE_CHECKING:
    from traffic_manager.client import ClientError, Problem, Refused, Unreachable

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
UNREACHABLE = 5
INTERRUPTED = 130

_MEANINGS = {
    DONE: "done",
    FAILED: "failed; also input that the server refused",
    USAGE: "wrong use of this command line",
    NOT_FOUND: "not found",
    CONFLICT: "conflict: the route is not as you thought",
    UNREACHABLE: "the server cannot be reached, or cannot answer now",
    INTERRUPTED: "interrupted with Ctrl-C",
    READER_GONE: "nobody reads the output any more, as in `... | head`",
}
# The blank lines keep rich from joining them to one paragraph.
HELP = "Exit codes:\n\n" + "\n\n".join(f"{code:>3}  {meaning}" for code, meaning in _MEANINGS.items())


_NOT_FOUND_HINT = "see `traffic-manager routes list`; resolve finds active routes only"

_NO_KEY_HINT = "see `traffic-manager keys list`"


class Failure(NamedTuple):
    """How a command fails: its exit code, *what* happened, *hint* what to do, *details* one line each."""

    code: int
    what: str
    hint: str
    details: tuple[str, ...] = ()


@contextmanager
def told() -> Iterator[None]:
    """Run a command's work; tell an expected failure and exit with its code, without a traceback."""
    from traffic_manager.client import ClientError

    try:
        yield
    except ClientError as error:
        raise tell(failure_of(error)) from None
    except OSError as error:
        what = f"{error.filename or 'file'}: {error.strerror or error}"
        raise tell(Failure(FAILED, what, "check the path, its permissions and the free space")) from None


def tell(failure: Failure) -> typer.Exit:
    """Write *failure* on stderr and return the exit to raise."""
    output.error(failure.what)
    for line in failure.details:
        output.note(f"  {line}")
    output.hint(failure.hint)
    return typer.Exit(failure.code)


def failure_of(error: ClientError) -> Failure:
    """Return what to say of *error*."""
    from traffic_manager import client

    if isinstance(error, client.Unreachable):
        return _unreachable(error)
    if isinstance(error, client.Refused):
        return _refused(error)
    if isinstance(error, client.UnexpectedAnswer):
        return Failure(FAILED, str(error), "check TM_URL or --server: this is not Traffic Manager's API")
    return Failure(FAILED, str(error), "try again")


def _unreachable(error: Unreachable) -> Failure:
    what = f"cannot reach {error.url}: {error.reason}"
    if "certificate" in error.reason:
        hint = "before the command, --ca-file says whom you trust, --cert-file what you show"
        return Failure(UNREACHABLE, what, hint)
    if error.may_be_done:
        return Failure(UNREACHABLE, what, "look at `traffic-manager health`; --timeout waits longer")
    return Failure(UNREACHABLE, what, "start it with `traffic-manager serve`, or set TM_URL or --server")


def _refused(error: Refused) -> Failure:
    from traffic_manager import client

    problem = error.problem
    details = tuple(f"{e.field}: {e.detail}" for e in problem.errors)
    if isinstance(error, client.NotFound):
        hint = _NO_KEY_HINT if problem.type.endswith(":key-not-found") else _NOT_FOUND_HINT
        return Failure(NOT_FOUND, str(error), hint, details)
    if isinstance(error, client.Conflict):
        return Failure(CONFLICT, str(error), _conflict_hint(problem), (*details, *_current(problem)))
    if isinstance(error, client.HistoryGone):
        hint = f"read the routes again (`routes export`), then go on with --after {problem.head}"
        # What follows in the detail is what the hint says.
        return Failure(FAILED, str(error).partition(";")[0], hint)
    if isinstance(error, client.Unavailable):
        what = f"the server cannot answer now (HTTP {problem.status}): {error}"
        return Failure(UNREACHABLE, what, _later(problem), details)
    return Failure(FAILED, f"{_title(problem)}: {error}", _refused_hint(problem), details)


def _title(problem: Problem) -> str:
    return (
        f"the server failed (HTTP {problem.status})" if problem.status >= 500 else "the server refused this"
    )


def _conflict_hint(problem: Problem) -> str:
    if problem.key_id is not None:
        return f"`traffic-manager keys revoke {problem.key_id}`, then make another"
    if problem.status == 412:
        return "read it again with `traffic-manager routes get`, then repeat with its etag"
    return "use `traffic-manager routes put` to replace it"


def _current(problem: Problem) -> tuple[str, ...]:
    current: Any = problem.current  # Any: JSON values
    if not current:
        return ()
    state = output.state(bool(current.get("is_active")))
    return (f"it is now: {current.get('url')}, {state}, revision {current.get('revision')}",)


def _later(problem: Problem) -> str:
    if problem.retry_after_s is None:
        return "try again soon; `traffic-manager health` shows more"
    return f"try again in {problem.retry_after_s:g} s; `traffic-manager health` shows more"


def _refused_hint(problem: Problem) -> str:
    if problem.status >= 500:
        return f"look for correlation id {problem.correlation_id} in the server's log"
    if problem.status == 401:
        return "set TM_API_KEY, or --key-file before the command, to a key that is in force"
    if problem.status == 403:
        return "`traffic-manager whoami` shows what your key may do"
    return (
        "correct the fields named here, then repeat" if problem.errors else "correct the input, then repeat"
    )
