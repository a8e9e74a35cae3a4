"""The memory limit of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

# For cgroup v2, and for v1 if its memory controller is mounted.
_FILES = (("", "", "memory.max"), ("memory", "memory", "memory.limit_in_bytes"))


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes at which the kernel kills this process.

    That is the lowest limit of its cgroup and its ancestors, else the memory of the machine.
    """
    return min([psutil.virtual_memory().total, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller, mount, name in _FILES:
            if controller in controllers.split(","):
                yield from _limits(root / "sys/fs/cgroup" / mount, path, name)


def _limits(mount: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits of a cgroup and its ancestors, as far as they are visible.

    In a container the path may be the machine's, while only the root of the mount exists.
    """
    inner = mount / path.lstrip("/")
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(mount):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):
                continue
