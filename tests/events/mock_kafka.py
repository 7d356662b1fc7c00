"""librdkafka's own mock of a Kafka cluster: real TCP, no Java, and errors on demand.

The Python wheel does not lead to it, so it is called in the library that the wheel brings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka

_PRODUCE = 0
_PRODUCER_TYPE = 0
_NODE_ID = 1


@cache
def _library() -> ctypes.CDLL:
    wheel = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(wheel.glob("librdkafka*"))))
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, function).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class MockKafka:
    """A cluster of one broker. It makes each topic that is asked for, but knows no admin requests."""

    def __init__(self) -> None:
        self._library = library = _library()
        conf = ctypes.c_void_p(library.rd_kafka_conf_new())
        silence = (conf, b"log_level", b"0", None, ctypes.c_size_t(0))
        library.rd_kafka_conf_set(*silence)
        self._client = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER_TYPE, conf, None, ctypes.c_size_t(0)))
        self._cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(self._client, 1))
        self.bootstrap_servers: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def take_down(self) -> None:
        """Refuse and close connections."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, _NODE_ID)

    def bring_up(self) -> None:
        """Accept connections again, with all that was stored."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, _NODE_ID)

    def answer_slowly(self, milliseconds: int) -> None:
        """Delay every answer."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, _NODE_ID, milliseconds)

    def fail_produce(self, errors: Sequence[int]) -> None:
        """Answer the next requests to store records with these errors, one each."""
        codes = (ctypes.c_int * len(errors))(*errors)
        push = self._library.rd_kafka_mock_push_request_errors_array
        push(self._cluster, _PRODUCE, ctypes.c_size_t(len(errors)), codes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
