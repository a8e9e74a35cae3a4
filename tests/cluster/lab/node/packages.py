"""What a real node needs of the machine: Linux, root, and some of Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.lab.builds import BuildFailed, Say, cache_folder

INSTEAD = "with KServe on a kind cluster, MODELSERVICE_TEST_KUBECONFIG=... serves instead"

# Package -> a program of it that is used here.
PACKAGES = {
    "containerd": "/usr/bin/ctr",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "nftables": "/usr/sbin/nft",
    "iproute2": "/sbin/ip",
    "util-linux": "/usr/bin/nsenter",
    "mount": "/bin/mount",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
}


def check() -> None:
    """Raise BuildFailed, in one line with what to do instead, where no real node can be."""
    if sys.platform != "linux":
        raise BuildFailed(f"a real node needs Linux; {INSTEAD}")
    if os.geteuid() != 0:
        raise BuildFailed(f"a real node needs root (sudo make node-lab); {INSTEAD}")
    for path in (cache_folder(), Path(tempfile.gettempdir()), Path(__file__)):
        if path.absolute().is_relative_to("/run") or path.absolute().is_relative_to("/var"):
            raise BuildFailed(
                f"a real node has a /run and /var of its own and would not see {path}"
            )
    if missing() and shutil.which("apt-get") is None:
        raise BuildFailed(f"a real node needs {' '.join(missing())}, and no apt-get; {INSTEAD}")


def missing() -> list[str]:
    """The packages that have to be installed."""
    return [package for package, program in PACKAGES.items() if not Path(program).exists()]


def install(say: Say) -> None:
    """Install what is missing. Raises BuildFailed."""
    wanted = missing()
    if not wanted:
        return
    began = time.monotonic()
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
    say(" ".join(command))
    # Without lists nothing is found, and old lists name files that are gone.
    _run(["apt-get", "update"])
    _run(command)
    say(f"installed in {time.monotonic() - began:.0f} s")


def _run(command: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with (
        tempfile.TemporaryFile() as output,
        # Of its own session, and waited for whatever comes: dpkg is not to be cut short.
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        process.wait()
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if process.returncode:
        raise BuildFailed(f"{' '.join(command)} failed:\n{printed[-2000:]}")
