"""Model folders on the node's disk, as volumes that claims are bound to."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.cluster import Manifest


def copy_readable(source: Path, target: Path) -> None:
    """Copy a folder so that any user can read it: model servers do not run as root."""
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def volume(folder: Path, namespace: str, claim: str) -> list[Manifest]:
    """A PersistentVolume of this folder of the node, and the claim that it is kept for."""
    name = f"{namespace}-{claim}"
    capacity = {"storage": "1Gi"}
    modes = ["ReadOnlyMany"]
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": capacity,
                "accessModes": modes,
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": namespace, "name": claim},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": namespace},
            "spec": {
                "accessModes": modes,
                "resources": {"requests": capacity},
                "storageClassName": "",
                "volumeName": name,
            },
        },
    ]
