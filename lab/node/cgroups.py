"""A node's control groups: a branch of its own in every hierarchy of the machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = {"cpu", "cpuset", "hugetlb", "memory", "pids"}


def branches(name: str) -> list[Path]:
    """The folders of the branch of this name: one in each hierarchy of v1, the one of v2."""
    if (ROOT / "cgroup.procs").exists():
        return [ROOT / name]
    # Beside the hierarchy `cpu,cpuacct` systemd has links to it of either name.
    return [
        folder / name
        for folder in sorted(ROOT.iterdir())
        if (folder / "cgroup.procs").exists() and not folder.is_symlink()
    ]


def programs(name: str) -> Path:
    """The group in the branch that the node's own programs join."""
    # Of v1's hierarchies one is enough to find them; in cpuset's nothing runs without CPUs.
    [counting] = [path for path in branches(name) if path.parent.name in ("pids", ROOT.name)]
    return counting / "programs"


def make(name: str) -> None:
    """Make the branch, with all that the kubelet counts and limits. Raises OSError.

    On v2 the root group goes on handing down what is needed here: other branches may rely on it.
    """
    if (available := ROOT / "cgroup.controllers").exists():
        wanted = CONTROLLERS & set(available.read_text().split())
        enabled = " ".join(f"+{controller}" for controller in sorted(wanted))
        (ROOT / "cgroup.subtree_control").write_text(enabled)
    for folder in branches(name):
        folder.mkdir()
    programs(name).mkdir()


def make_and_remove(name: str) -> None:
    """Raise OSError where `make` would. In a container with v2 it does when the group that is seen
    as the root has processes: the kernel lets such a one hand nothing down."""
    try:
        make(name)
    finally:
        for folder in branches(name):
            for made in (folder / "programs", folder):
                with suppress(OSError):
                    made.rmdir()
