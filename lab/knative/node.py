"""The simulated node in a network namespace of its own, where its pods' addresses answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from lab import network
from lab.builds import BuildFailed
from lab.kwok import SimulatedNode
from lab.processes import answers
from lab.site import Site

from . import measurements

_PROGRAMS = ("ip", "nsenter", "unshare")

# Furnishes a new namespace, in which the addresses $1 are its own, and holds it open. $2 will have
# its pid.
_HOLD = """
ip link set lo up
ip route add local "$1" dev lo
echo $$ >"$2.unfinished"
mv "$2.unfinished" "$2"
exec sleep infinity
"""


class ConnectedNode(SimulatedNode):
    """KWOK's node with what Knative asks of it: pods that can be measured, and a place where its
    programs have their fixed ports to themselves."""

    def __init__(self, site: Site) -> None:
        self.subnet = network.claim()
        site.sweeper.tell(f"link {self.subnet.link}")
        super().__init__(site, self.subnet.pods)
        self.address = self.subnet.host
        self.apiserver_flags = [f"--service-cluster-ip-range={self.subnet.services}"]
        folder = site.folder / "node"
        folder.mkdir()
        self.inside_pid = folder / "inside.pid"
        hold = ["sh", "-ec", _HOLD, "sh", self.subnet.pods, self.inside_pid]
        self._inside = site.process(
            "inside", ["unshare", "--net", *hold], ready=self.inside_pid.exists
        )
        self._measurements = site.process(
            "measurements",
            network.entering(self.inside_pid, [sys.executable, "-I", "-S", measurements.__file__]),
            ready=lambda: answers(f"http://{self.subnet.node}:{measurements.PORT}/"),
        )

    def prepare(self) -> None:
        """Make the namespace and the wire to it."""
        super().prepare()
        self.subnet.address()
        self._inside.start()
        self.subnet.connect(self._inside.pid)
        self._measurements.launch()

    def wait_ready(self) -> None:
        """Return once pods can start and be measured."""
        super().wait_ready()
        self._measurements.wait_ready()

    def stop(self) -> None:
        """Stop all of its programs."""
        super().stop()
        self._measurements.stop()
        self._inside.stop()


def check_knative() -> None:
    """Raise BuildFailed, in one line, where there can be no network namespace."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise BuildFailed("the lab in Knative mode needs Linux and root")
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise BuildFailed(f"the lab in Knative mode needs {' '.join(missing)} on the PATH")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        raise BuildFailed("the lab in Knative mode needs network namespaces, and none can be made")
