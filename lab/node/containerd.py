"""containerd's configuration, with that of its pods' network."""

from __future__ import annotations

import json
from pathlib import Path

from lab.images import PAUSE


def write_configuration(folder: Path, pods: str, registry: str) -> None:
    """containerd's configuration, in `folder`; its data are where they are on any node.

    Pods get addresses of the subnet `pods`; every image is looked for in `registry`, a URL.
    """
    _write_registry(folder / "registries" / "_default", registry)
    _write_network(folder / "network", pods)
    (folder / "config.toml").write_text(_configuration(folder))


def _configuration(folder: Path) -> str:
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Without CAP_SYS_RESOURCE no process may lower its score, and no sandbox would start.
restrict_oom_score_adj = true
# Its profile would stay in the kernel.
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/network"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{folder}/registries"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def _write_registry(folder: Path, url: str) -> None:
    folder.mkdir(parents=True)
    hosts = f'server = "{url}"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(hosts)


def _write_network(folder: Path, pods: str) -> None:
    folder.mkdir()
    plugin = {
        # A link of its own for each pod: whatever it calls passes the node, where Services are.
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin]}
    (folder / "pods.conflist").write_text(json.dumps(network))
