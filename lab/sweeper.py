"""Ends a lab whose own process is gone, however it went (kill -9 included).

Run as a program: `sweeper.py FOLDER`. Standard input is a pipe from the lab, one order a line:
`+PID` for a process group that it started, `-PID` for one that it ended, `cgroup PATH` for a
branch of control groups and `link NAME` for a network link that it made, `keep` to leave the
folder. When the pipe ends, the groups still alive and all processes of the branches are killed,
and branches, links and the folder are removed. Unlike PR_SET_PDEATHSIG this does not depend on
which thread of the lab started the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

PATIENCE = 20.0  # seconds for killed processes to be gone


def main(folder: str) -> None:
    groups: set[int] = set()
    branches: list[Path] = []
    links: list[str] = []
    keep = False
    for line in sys.stdin:
        order, _, name = line.strip().partition(" ")
        if order == "keep":
            keep = True
        elif order == "cgroup":
            branches.append(Path(name))
        elif order == "link":
            links.append(name)
        elif order.startswith("+"):
            groups.add(int(order[1:]))
        elif order.startswith("-"):
            groups.discard(int(order[1:]))
    sweep(groups, branches, links)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(groups: set[int], branches: list[Path], links: list[str]) -> None:
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    # What is killed may have begun a process that was not seen: until there is none.
    until(lambda: not any(map(kill_processes, branches)), "processes of the node")
    for branch in branches:
        until(partial(remove_branch, branch), f"the control group {branch}")
    for link in links:
        subprocess.run(["ip", "link", "delete", link], stderr=subprocess.DEVNULL)


def kill_processes(branch: Path) -> bool:
    """Whether there was one."""
    pids = [pid for file in branch.rglob("cgroup.procs") for pid in file.read_text().split()]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return bool(pids)


def remove_branch(branch: Path) -> bool:
    """Whether it is gone; a group is busy until its last process is reaped."""
    for folder, _, _ in os.walk(branch, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
    return not branch.exists()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            print(f"left behind: {what}", file=sys.stderr, flush=True)
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1])
