"""What a real node needs of the machine: Linux, root, and some of Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import debian
from lab.builds import BuildFailed, Say, cache_folder

from . import cgroups

INSTEAD = "with KServe on a kind cluster, MODELSERVICE_TEST_KUBECONFIG=... serves instead"

# Package -> what of it is used here: a program, by name since another package may have it as well
# (Docker's own has containerd and runc), or a file.
PACKAGES = {
    "containerd": "ctr",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "nftables": "nft",
    "iproute2": "ip",
    "util-linux": "nsenter",
    "mount": "mount",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
}
_SYSTEMD_RUNS = Path("/run/systemd/system")


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
    _check_rights()


def _check_rights() -> None:
    # Root may lack them in a container.
    try:
        cgroups.make_and_remove(f"modelservice-lab-{os.getpid()}")
    except OSError as error:
        raise BuildFailed(
            f"a real node needs control groups, and none can be made here ({error}); {INSTEAD}"
        ) from None
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        raise BuildFailed(
            f"a real node needs namespaces, and this root may not make any; {INSTEAD}"
        )


def missing() -> list[str]:
    """The packages that have to be installed."""
    return debian.missing(PACKAGES)


def install(say: Say) -> None:
    """Install what is missing, in place of nothing that is there. Raises BuildFailed."""
    wanted = missing()
    if not wanted:
        return
    began = time.monotonic()
    try:
        debian.install(wanted, say)
        if "containerd" in wanted and _SYSTEMD_RUNS.exists():
            # The package has started one for the whole machine.
            debian.run(["systemctl", "disable", "--now", "containerd.service"])
    except debian.InstallFailed as error:
        raise BuildFailed(str(error)) from None
    say(f"installed in {time.monotonic() - began:.0f} s")
