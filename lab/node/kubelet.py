"""The kubelet's configuration."""

from __future__ import annotations

import json
from pathlib import Path

LEASE_SECONDS = 8  # renewed after a quarter of it

_FIXED: dict[str, object] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "readOnlyPort": 0,
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "failCgroupV1": False,
    "failSwapOn": False,
    "makeIPTablesUtilChains": False,
    "nodeLeaseDurationSeconds": LEASE_SECONDS,
    # The disk is the machine's, and how full it is nothing that the lab can mend.
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
}


def write_configuration(
    folder: Path, *, address: str, health_port: int, client_ca: Path, cgroup: str
) -> None:
    """The kubelet's configuration, in `folder`; its data are where they are on any node.

    It listens on `address` for clients with a certificate of `client_ca`; its pods' control groups
    are below `cgroup`, which must exist.
    """
    folder.mkdir()
    (folder / "resolv.conf").touch()
    configuration = _FIXED | {
        "address": address,
        "healthzBindAddress": address,
        "healthzPort": health_port,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "cgroupRoot": cgroup,
        # Nothing answers there, and it says so at once: there is no DNS in the lab.
        "clusterDNS": [address],
        "resolvConf": str(folder / "resolv.conf"),
        "volumePluginDir": str(folder / "plugins"),
    }
    (folder / "config.json").write_text(json.dumps(configuration))
