"""The image of every pod's sandbox: one static program that waits for its end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.cluster.lab.builds import cache_folder

NAME = "docker.io/lab/pause:1"
_PROGRAM = """package main
import ("os"; "os/signal"; "syscall")
func main() { c := make(chan os.Signal, 1); signal.Notify(c, syscall.SIGTERM, syscall.SIGINT); <-c }
"""


def archive() -> Path:
    """A docker archive, built once."""
    path = cache_folder() / "pause.tar"
    if not path.exists():
        unfinished = path.with_name(f"pause-{os.getpid()}.tar")
        unfinished.write_bytes(_archive(_build()))
        unfinished.rename(path)
    return path


def _build() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pause.go").write_text(_PROGRAM)
        build = ["go", "build", "-ldflags=-s -w", "-o", "pause", "pause.go"]
        subprocess.run(build, cwd=folder, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
        return (Path(folder) / "pause").read_bytes()


def _archive(program: bytes) -> bytes:
    layer = _tar({"pause": program})
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "manifest.json": manifest}
    return _tar({"layer.tar": layer} | {n: json.dumps(c).encode() for n, c in files.items()})


def _tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()
