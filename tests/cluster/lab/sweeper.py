"""Ends a lab whose own process is gone, however it went (kill -9 included).

Run as a program: `sweeper.py FOLDER`. Standard input is a pipe from the lab: `+PID` for a process
group that it started, `-PID` for one that it ended, `keep` to leave the folder. When the pipe
ends, the groups still alive are killed and the folder is removed. Unlike PR_SET_PDEATHSIG this
does not depend on which thread of the lab started the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress


def main(folder: str) -> None:
    groups: set[int] = set()
    keep = False
    for line in sys.stdin:
        order = line.strip()
        if order == "keep":
            keep = True
        elif order.startswith("+"):
            groups.add(int(order[1:]))
        elif order.startswith("-"):
            groups.discard(int(order[1:]))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
