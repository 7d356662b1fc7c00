"""`python -m tests.kit.install`: bring every tool of `tools.TOOLS`, or say what to install."""

from __future__ import annotations

import sys

from tests.kit.tools import TOOLS
from tests.servers.programs import NotInstalled


def main() -> int:
    problems = []
    for program, tool in TOOLS.items():
        try:
            print(f"{program}: {tool.bring()}", flush=True)
        except NotInstalled as missing:
            problems.append(str(missing))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
