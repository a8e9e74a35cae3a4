"""Our own images, built as docs/operations.md and docs/ci.md say."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.images import base
from tests.cluster.serving import ROOT

IMAGE = "modelservice:0.1.0"
CLI_IMAGE = "modelctl:0.1.0"
Command = Callable[..., "subprocess.CompletedProcess[str]"]
_STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{0}/store"\nrunroot = "{0}/run"\n'


def build(folder: Path) -> Path:
    """Run `make image` on a base made here; an archive of the image, with the name that containerd
    gives it. Everything that is written goes to `folder`."""
    env = _built(folder, IMAGE)
    archive = folder / "image.tar"
    name = f"docker.io/library/{IMAGE}"
    _run(["buildah", "push", f"localhost/{IMAGE}", f"docker-archive:{archive}:{name}"], env)
    print(f"{IMAGE}: {archive.stat().st_size / 1e6:.0f} MB")
    return archive


@contextmanager
def modelctl(folder: Path) -> Iterator[Command]:
    """Run commands in modelctl's image, on this machine's network."""
    env = _built(folder, CLI_IMAGE, "TARGET=cli")
    _run(["buildah", "from", "--name", "modelctl", f"localhost/{CLI_IMAGE}"], env)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return _done(["buildah", "run", "modelctl", "--", *command], env)

    yield run
    _run(["buildah", "rm", "modelctl"], env)


def _built(folder: Path, image: str, *options: str) -> Mapping[str, str]:
    """Run `make image` on a base made here; the environment of programs that use the image."""
    began = time.monotonic()
    env = _env(folder)
    _run(["make", "image", f"IMAGE={image}", f"BASE=docker-archive:{base(print)}", *options], env)
    print(f"{image}: built in {time.monotonic() - began:.0f} s")
    return env


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
    done = _done(command, env)
    assert done.returncode == 0, done.stdout + done.stderr


def _done(command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    # What buildah mounts goes with the namespace.
    return subprocess.run(
        ["unshare", "--mount", *command],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
