"""Our own image, built as docs/operations.md says, and what runs of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lab.images import base
from tests.cluster.serving import ROOT

IMAGE = "modelservice:0.1.0"
_STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{0}/store"\nrunroot = "{0}/run"\n'


def build(folder: Path) -> Path:
    """Run `make image` on a base made here; an archive of the image, with the name that containerd
    gives it. Everything that is written goes to `folder`."""
    began = time.monotonic()
    env = _env(folder)
    _run(["make", "image", f"IMAGE={IMAGE}", f"BASE=docker-archive:{base(print)}"], env)
    archive = folder / "image.tar"
    name = f"docker.io/library/{IMAGE}"
    _run(["buildah", "push", f"localhost/{IMAGE}", f"docker-archive:{archive}:{name}"], env)
    megabytes = archive.stat().st_size / 1e6
    print(f"{IMAGE}: {megabytes:.0f} MB, built in {time.monotonic() - began:.0f} s")
    return archive


def _env(folder: Path) -> Mapping[str, str]:
    storage = folder / "storage.conf"
    storage.write_text(_STORAGE.format(folder))
    return {
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": str(storage),
        # A docker that runs on this machine knows no archive as a base.
        "DOCKER_HOST": f"unix://{folder}/no-docker",
        "SSL_CERT_FILE": os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
    }


def _run(command: list[str], env: Mapping[str, str]) -> None:
    # What buildah mounts goes with the namespace.
    done = subprocess.run(
        ["unshare", "--mount", *command],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
