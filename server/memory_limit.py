"""How much memory this process may take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

# Of cgroup v2, and of v1 where its memory controller is mounted.
_FILES = (("", "", "memory.max"), ("memory", "memory", "memory.limit_in_bytes"))


def memory_limit(root: Path = Path("/")) -> int:
    """The bytes at which the kernel kills this process: the lowest limit of its cgroup and of those
    around it, else all that the machine has."""
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
    """Of a cgroup and all around it, as far as they are to be seen: in a container's own namespace
    its path may be one of the machine's, and only the mount's root is there."""
    inner = mount / path.lstrip("/")
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(mount):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):
                continue
