"""Ports for servers that are killed and started again on the same port."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
LOWEST_PORT = 15_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port that nobody listens on now, and that no client is given as its own port.

    The kernel's choice for port 0 lies in the range it hands to clients. While a server there is down, a
    client that keeps reconnecting may get the server's port as its own and connect to itself, which blocks
    the restart. So the port comes from below that range, and from the kernel only if there is no room.
    """
    for port in random.sample(_candidates(), k=50):
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _candidates() -> range:
    """Return the ports that are this test process's to take, so that two that run side by side never choose
    the same one between looking and binding."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return range(LOWEST_PORT + own, max(_first_ephemeral_port(), LOWEST_PORT + 1000), processes)


def is_free(port: int) -> bool:
    """Return whether a server could listen on *port* now."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT after a restart must not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Return whether somebody listens on *port*, which does not yet mean that they answer."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _first_ephemeral_port() -> int:
    try:
        return int(EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
