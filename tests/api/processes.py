"""What a node costs the machine, as Linux tells it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.node import Node

_ESTABLISHED = "01"


def family_of(node: Node) -> list[int]:
    """Return the node's processes: the one started, and its workers."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return [node.pid, *map(int, children)]


def threads_of(node: Node) -> int:
    """Return the threads of all its processes."""
    return sum(_status(pid, "Threads") for pid in family_of(node))


def memory_mb_of(node: Node) -> float:
    """Return the resident memory of all its processes."""
    return sum(_status(pid, "VmRSS") for pid in family_of(node)) / 1024


def connections_of(node: Node) -> int:
    """Return how many connections to its port the operating system holds."""
    port = f"{node.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port}") and row[3] == _ESTABLISHED for row in rows)


def other_sockets_of(node: Node) -> int:
    """Return its sockets that are not callers' connections: those to its database are among them."""
    descriptors = [d for pid in family_of(node) for d in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(_is_socket(d) for d in descriptors) - connections_of(node)


def _is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except FileNotFoundError:
        return False


def _status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, f"{field} of process {pid}"
    return int(found[1])
