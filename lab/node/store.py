"""Images as containerd has them, imported once into a store that every node reads."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from lab.builds import Say, built_once, cache_folder, run_build
from lab.kept import hold, remove_others
from lab.processes import ComponentFailed

_CONTENT = Path("io.containerd.content.v1.content")
_SNAPSHOTS = Path("io.containerd.snapshotter.v1.overlayfs/snapshots")
_DATABASES = (
    Path("io.containerd.metadata.v1.bolt/meta.db"),
    Path("io.containerd.snapshotter.v1.overlayfs/metadata.db"),
)

_CONFIGURATION = """version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""
# $1 is containerd's configuration, the rest are archives. Its /run is not the machine's.
_IMPORT = """
mount -t tmpfs tmpfs /run
containerd --config "$1" & containerd=$!
trap 'kill $containerd; wait $containerd || true' EXIT
trap 'exit 130' INT TERM
shift
until ctr version >/dev/null 2>&1; do kill -0 $containerd; sleep 0.1; done
for archive; do ctr --namespace k8s.io images import "$archive"; done
"""
# Mounts from the store $1: the contents $2 so that more can be added, and the rest, which is never
# written again.
_MOUNT = """
store=$1 content=$2; shift 2
cd /var/lib/containerd
mkdir added work
mount -t overlay overlay "$content" -o "lowerdir=$store/$content,upperdir=added,workdir=work"
for path; do mount --bind -o ro "$store/$path" "$path"; done
"""


def imported(archives: Iterable[Path], say: Say) -> Path:
    """A containerd root with these images, imported where there is none. Raises BuildFailed.

    One that is new takes the place of all that no lab uses any more.
    """
    paths = sorted(map(str, archives))
    digest = hashlib.sha256("\0".join(paths).encode()).hexdigest()[:16]
    store = f"images/store-{digest}"
    is_new = not (cache_folder() / store).exists()
    held = hold(built_once(store, partial(_import, paths, say), say))
    if is_new:
        remove_others(held, say)
    return held


def attach(store: Path, root: Path, pid: int) -> None:
    """Have the node whose mounts `pid` sees begin with the images of `store`.

    `root` is its /var/lib/containerd, as this machine sees it. Nothing that is done there reaches
    the store. Raises ComponentFailed.
    """
    snapshots = [_SNAPSHOTS / folder.name for folder in (store / _SNAPSHOTS).iterdir()]
    for path in (_CONTENT, *snapshots):
        (root / path).mkdir(parents=True)
    for path in _DATABASES:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / path, root / path)
    enter = ["nsenter", f"--target={pid}", "--mount", "sh", "-ec", _MOUNT, "sh"]
    done = subprocess.run([*enter, store, _CONTENT, *snapshots], capture_output=True, text=True)
    if done.returncode:
        raise ComponentFailed(f"the node's images cannot be mounted: {done.stderr.strip()}")


def add(archive: Path, pid: int) -> None:
    """Give the node whose mounts `pid` sees one image more, under the name that `archive` carries.

    Raises ComponentFailed.
    """
    ctr = ["ctr", "--namespace=k8s.io", "images", "import", str(archive)]
    enter = ["nsenter", f"--target={pid}", "--mount", "--"]
    done = subprocess.run([*enter, *ctr], capture_output=True, text=True)
    if done.returncode:
        raise ComponentFailed(f"{archive} cannot be imported: {done.stderr.strip()}")


def _import(archives: list[str], say: Say, folder: Path) -> None:
    configuration = folder.parent / "config.toml"
    configuration.write_text(_CONFIGURATION.format(root=folder))
    command = ["unshare", "--mount", "sh", "-ec", _IMPORT, "sh", str(configuration), *archives]
    run_build(command, "the image store", folder, say)
