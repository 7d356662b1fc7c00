"""Places at which the fault suite ends or halts a process of ours, where nothing from outside could do it in time.

For tests of this program alone, and no setting for anybody else: `TM_FAILPOINTS` names a folder, and whoever reaches
a place for which a file of that name lies there takes the file away and does what it says: `kill`, or `pause` and
seconds. Without `TM_FAILPOINTS` a place costs a comparison; outside development no server starts with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from traffic_manager.errors import StartRefused

VARIABLE = "TM_FAILPOINTS"
_folder: Path | None = None


def arm(environment: Mapping[str, str], *, is_development: bool) -> None:
    """Heed failpoints from now on, here and in processes forked later, if *environment* asks for it. Raises
    StartRefused."""
    global _folder
    if not (folder := environment.get(VARIABLE)):
        return
    if not is_development:
        raise StartRefused(f"{VARIABLE}: is for tests of this program, with ENVIRONMENT=development")
    _folder = Path(folder)


def reach(name: str) -> None:
    """Do what the file *name* says, if there is one; once, whoever comes first."""
    if _folder is None:
        return
    taken = _folder / f"{name}.taken-by-{os.getpid()}"
    try:
        (_folder / name).rename(taken)
    except FileNotFoundError:
        return
    action, _, seconds = taken.read_text().partition(" ")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(seconds))
