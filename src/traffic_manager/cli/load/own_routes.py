"""The routes that a load is about: made before it, and taken away after it, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

from traffic_manager.cli.load.plan import ENV, version
from traffic_manager.client import Client, ClientError, Filter, NotFound, Operation, Refused, Unreachable
from traffic_manager.client.http import BATCH_OPERATIONS_MAX


class RoutesLeft(Exception):
    """Routes that could not be taken away again, and *why*: None if Ctrl-C said so."""

    def __init__(self, why: ClientError | None) -> None:
        super().__init__("routes are left behind")
        self.why = why


class OwnRoutes:
    """*count* routes of *tenant* and *service*, which have no others: they lead to *url* and 0. *say* is told what is
    under way."""

    def __init__(
        self, client: Client, tenant: str, service: str, count: int, url: str, say: Callable[[str], None]
    ) -> None:
        self._client = client
        self._wanted = Filter(tenant, service, ENV)
        self._tenant, self._service = tenant, service
        self._count = count
        self._url = url
        self._say = say
        self._may_be_there = False
        self.shown = f"{tenant}/{service}/{ENV}"

    @contextmanager
    def made(self) -> Iterator[None]:
        """Have them there while the block runs. Raises ClientError, and RoutesLeft if they cannot be taken away."""
        try:
            self._say(f"making {self._count:,} routes {self.shown}/... ...")
            self._make()
            yield
        finally:
            if self._may_be_there:
                self._take_away()

    def _make(self) -> None:
        self._send(self._operation("put", version(number), f"{self._url}/0") for number in range(self._count))

    def _take_away(self) -> None:
        self._say("taking the routes away again ...")
        try:
            self._delete_what_is_there()
        except ClientError as error:
            raise RoutesLeft(error) from error
        except KeyboardInterrupt:
            raise RoutesLeft(None) from None

    def _delete_what_is_there(self) -> None:
        """Delete all of them, or those that were made before something failed."""
        while found := self._there():
            # Somebody else may delete them, too.
            with suppress(NotFound):
                self._send(self._operation("delete", name) for name in found)

    def _there(self) -> Sequence[str]:
        return [route.version for route in self._client.routes(self._wanted).value.routes]

    def _send(self, operations: Iterable[Operation]) -> None:
        left = iter(operations)
        while batch := list(islice(left, BATCH_OPERATIONS_MAX)):
            try:
                self._client.batch(batch)
            except ClientError as error:
                self._may_be_there |= _may_be_done(error)
                raise
            self._may_be_there = True

    def _operation(self, what: str, version: str, url: str | None = None) -> Operation:
        made = Operation(operation=what, tenant=self._tenant, service=self._service, env=ENV, version=version)
        if url is not None:
            made["url"] = url
        return made


def _may_be_done(error: ClientError) -> bool:
    """Return whether the batch that failed may be in, from an attempt whose answer was lost."""
    return error.may_be_done if isinstance(error, Unreachable) else not isinstance(error, Refused)
