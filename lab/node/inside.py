"""Furnishes a node's namespaces and holds them open for as long as it runs.

Run as a program in new mount and network namespaces: `inside.py FOLDER`. What kubelet, containerd
and the network plugins mount, or set in the kernel, stays in here and ends with the last process
of the node; its /var/lib and /var/log are in FOLDER. `FOLDER/inside.pid` is written when all is in
place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

# Kubelet, containerd and the network plugins write here, whatever they are told.
SOCKETS = "/run"
DATA = ("/var/lib", "/var/log")
# The kubelet insists on these, and they are the whole machine's: it gets files of its own instead.
WANTED_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def main(folder: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", SOCKETS)
    for path in DATA:
        of_its_own = folder / path.lstrip("/")
        of_its_own.mkdir(parents=True)
        run("mount", "--bind", str(of_its_own), path)
    for name, value in WANTED_SYSCTLS.items():
        cover(Path("/proc/sys", name), folder / name.replace("/", "."), value)
    # As on any node: volumes may ask to see mounts that are made later.
    run("mount", "--make-rshared", "/")
    run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    unfinished = folder / "inside.pid.unfinished"
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(folder / "inside.pid")
    while True:
        signal.pause()


def cover(path: Path, file: Path, value: int) -> None:
    file.write_text(f"{value}\n")
    run("mount", "--bind", str(file), str(path))


def run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
