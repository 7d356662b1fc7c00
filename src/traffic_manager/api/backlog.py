"""Connections that the kernel has made and nobody has accepted yet: closing the listening socket would reset them."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress
from time import monotonic

_PATIENCE_S = 1.0
# Linux, linux/tcp.h: of a listening socket tcpi_unacked is the number of connections to accept.
_TCP_INFO_BYTES = 104
_UNACKED_AT = 24
_SO_ATTACH_FILTER = 26
# A classic BPF program over the TCP header: byte 13 has the flags; drop what has SYN, let all else pass.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def take_no_more(listener: socket.socket) -> None:
    """Have the kernel begin no more connections, where it can: for a moment clients find nobody, and try again a
    second later, when the socket has been closed or another server has it. For all who share the socket."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program)),
        )


async def all_accepted(listener: socket.socket) -> None:
    """Return when the event loop has accepted every connection that waits."""
    give_up_at = monotonic() + _PATIENCE_S
    while _waiting(listener) and monotonic() < give_up_at:  # noqa: ASYNC110 the kernel tells nobody
        await asyncio.sleep(0.001)


def _waiting(listener: socket.socket) -> int:
    """Return how many connections wait; 0 where that cannot be told."""
    with suppress(OSError, AttributeError, struct.error):
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(struct.unpack_from("I", told, _UNACKED_AT)[0])
    return 0
