"""What a node can leave on a machine, seen from outside it."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.node import cgroups

# What programs of a node set on other machines; the machine's own counters are none of it.
SYSCTLS = ("vm", "kernel", "net/ipv4", "net/core", "net/netfilter", "net/bridge")
COUNTERS = (
    *("random", "ns_last_pid", "pty", "neigh", "next_id", "nf_conntrack_count", "version"),
    "perf_event_max_sample_rate",  # which the kernel lowers by itself when it has much to do
)
# What a node has mounted, and where it writes whatever it is told.
MOUNTED = ("modelservice-lab-", " /run ", "/kubelet", "/netns", "/containerd", "/cni")


@dataclass(frozen=True)
class Machine:
    """What nodes have in common: the same before and after."""

    sysctls: dict[str, str]
    netfilter: str
    mounts: list[str]
    fixed_paths: list[str]


def machine() -> Machine:
    """As it is now."""
    # Without counts, which change with every packet.
    command = ["nft", "--stateless", "list", "ruleset"]
    tables = subprocess.run(command, capture_output=True, text=True, check=True)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return Machine(
        sysctls=_sysctls(),
        netfilter=tables.stdout,
        mounts=[mount for mount in mounts if any(name in mount for name in MOUNTED)],
        fixed_paths=[
            str(path)
            for folder in ("/run", "/var/lib", "/var/log", "/etc/cni")
            for path in Path(folder).glob("*")
            if path.name in ("netns", "kubelet", "cni", "containerd", "containers", "pods", "runc")
        ],
    )


@dataclass(frozen=True)
class Traces:
    """What one node has of its own, while it runs: each must go."""

    folder: Path
    link: Path
    cgroups: list[Path]
    namespaces: set[str]
    processes: set[int]

    def left(self) -> list[str]:
        """What is still there."""
        # A namespace that is gone leaves its number to the next one, which another lab may make.
        theirs = (pid for pid in _pids() if not _is_of_another_lab(pid, self.folder.name))
        held = {name for pid in theirs for name in _namespaces(pid)} & self.namespaces
        paths = [path for path in (self.folder, self.link, *self.cgroups) if path.exists()]
        processes = [f"process {pid}" for pid in self.processes if _runs(pid)]
        return [*map(str, paths), *processes, *held]


def traces(folder: Path) -> Traces:
    """Of the lab in this folder."""
    branches = cgroups.branches(folder.name)
    files = (file for branch in branches for file in branch.rglob("cgroup.procs"))
    in_groups = {int(pid) for file in files for pid in _read(file).split()}
    inside = int((folder / "node" / "inside.pid").read_text())
    named = {pid for pid in _pids() if str(folder) in _command(pid)}
    within = {pid for pid in _pids() if _namespaces(pid) & _own_namespaces(inside)}
    mine = in_groups | {inside} | named | within
    number = _address(folder).split(".")[1]
    return Traces(
        folder=folder,
        link=Path(f"/sys/class/net/lab-node-{number}"),
        cgroups=branches,
        namespaces={name for pid in mine for name in _own_namespaces(pid)},
        processes=mine,
    )


def _address(folder: Path) -> str:
    kubeconfig = (folder / "admin.kubeconfig").read_text()
    return kubeconfig.split("https://")[1].split(":")[0]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(file: Path) -> str:
    """Empty where it has gone meanwhile."""
    with suppress(OSError):
        return file.read_text(errors="replace")
    return ""


def _command(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline"))


def _is_of_another_lab(pid: int, name: str) -> bool:
    told = "".join(_read(Path(f"/proc/{pid}/{file}")) for file in ("cmdline", "environ", "cgroup"))
    return "modelservice-lab-" in told and name not in told


def _runs(pid: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def _namespaces(pid: int) -> set[str]:
    with suppress(OSError):
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt")}
    return set()


def _own_namespaces(pid: int) -> set[str]:
    return _namespaces(pid) - _namespaces(os.getpid())


def _sysctls() -> dict[str, str]:
    found = {}
    for folder in SYSCTLS:
        for file in Path("/proc/sys", folder).rglob("*"):
            name = str(file.relative_to("/proc/sys"))
            # Links come and go with other nodes, and have settings of their own.
            if "/conf/lab-" in name or any(counter in name for counter in COUNTERS):
                continue
            with suppress(OSError):
                found[name] = file.read_text()
    return found
