"""The container images of a lab with a real node, built here: no registry is asked for any.

Each is a Dockerfile below `images/`, built with buildah on a base that debootstrap makes. What is
built stays in the lab's cache, under a digest of what it was made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from .builds import QUEUE_PROXY_PROGRAM, Say, built_once, programs, run_build
from .kept import hold

DOCKERFILES = Path(__file__).parent / "images"
PAUSE = "docker.io/lab/pause:1"
PYTHON = "docker.io/lab/python:3"
MODEL_SERVER = "docker.io/lab/model-server:1"
MLSERVER = "docker.io/seldonio/mlserver:1.7.1"
STORAGE_INITIALIZER = "docker.io/kserve/storage-initializer:latest"
QUEUE_PROXY = "docker.io/lab/queue-proxy:1"

# The host's certificates, there while packages are installed and in no image.
_CERTIFICATES = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
_PACKAGES = "python3,python3-venv"
_DEBIAN = ("--variant=minbase", f"--include={_PACKAGES}", "bookworm")
# Half of the size, and of no use in a container.
_TRIMMED = (
    *("./dev/*", "./usr/share/doc", "./usr/share/info", "./usr/share/locale", "./usr/share/man"),
    *("./var/cache/apt/*", "./var/cache/debconf/*", "./var/lib/apt/lists/*", "./var/log/*"),
)


def archives(say: Say) -> Mapping[str, Path]:
    """Image name, as containerd has it, -> a docker archive that carries this name. Builds first
    what is missing, which takes three minutes and root. Raises BuildFailed."""
    python = base(say)
    mlserver = _archive(MLSERVER, say, python)
    return {
        PAUSE: _archive(PAUSE, say, python),
        PYTHON: python,
        MODEL_SERVER: _archive(MODEL_SERVER, say, python),
        MLSERVER: mlserver,
        STORAGE_INITIALIZER: _archive(
            STORAGE_INITIALIZER, say, python, models=_models(mlserver, say)
        ),
    }


def queue_proxy(say: Say) -> Path:
    """The archive of QUEUE_PROXY, which pods have beside their own containers in Knative mode."""
    [program] = programs([QUEUE_PROXY_PROGRAM], say).values()
    return _archive(QUEUE_PROXY, say, program=program.parent)


def base(say: Say) -> Path:
    """The archive of PYTHON, on which the others are built."""
    path = f"images/python-{_digest('python', *_DEBIAN, *_TRIMMED)}"
    return hold(built_once(path, partial(_debian, say), say)) / "image.tar"


def models(say: Say) -> Path:
    """A folder with the folders iris-v1, iris-v2, iris-corrupt and iris-nothing, as
    `images/models` makes them; all users may read it."""
    return _models(_archive(MLSERVER, say, base(say)), say)


def _archive(name: str, say: Say, parent: Path | None = None, **contexts: Path) -> Path:
    """`contexts` are the folders that its Dockerfile calls by these names."""
    short = _short(name)
    parents = [parent] if parent else []
    made_from = _digest(short, name, *(path.parent.name for path in (*parents, *contexts.values())))
    build = partial(_build, name, parent, contexts, say)
    return hold(built_once(f"images/{short}-{made_from}", build, say)) / "image.tar"


def _models(mlserver: Path, say: Say) -> Path:
    path = f"images/models-{_digest('models', mlserver.parent.name)}"
    return hold(built_once(path, partial(_make_models, mlserver, say), say)) / "models"


def _digest(short: str, *made_from: str) -> str:
    """Tells builds apart: it changes with the folder of this name and with the other things that
    they are made from."""
    files = sorted(path for path in (DOCKERFILES / short).iterdir() if path.is_file())
    parts = [part for path in files for part in (path.name.encode(), path.read_bytes())]
    parts += [text.encode() for text in made_from]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[
        :16
    ]


def _debian(say: Say, folder: Path) -> None:
    root = folder.parent / "root"
    context = _context(folder)
    context.mkdir()
    # What it mounts goes with its namespace, however it ends.
    command = ["unshare", "--mount", "debootstrap", *_DEBIAN, root, *_mirror()]
    run_build(command, "Debian", folder, say)
    left_out = [f"--exclude={pattern}" for pattern in _TRIMMED]
    packing = ["tar", "-C", root, *left_out, "-cf", context / "rootfs.tar", "."]
    run_build(packing, "Debian's archive", folder, say)
    _build(PYTHON, None, {}, say, folder)


def _mirror() -> list[str]:
    """From where this machine has the same Debian; empty where it has another system."""
    wanted = ("Codename: bookworm", "Component: main", "Created-By: Packages")
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    if shutil.which("apt-get") is None:
        return []
    found = subprocess.run(asked, capture_output=True, text=True).stdout.split()
    return [address for address in found if address.startswith("http")][:1]


def _build(
    name: str, parent: Path | None, contexts: Mapping[str, Path], say: Say, folder: Path
) -> None:
    # A copy, since a build has no links that lead out of its context.
    context = shutil.copytree(DOCKERFILES / _short(name), _context(folder), dirs_exist_ok=True)
    options = [f"--build-context={called}={path}" for called, path in contexts.items()]
    _bud([*options, f"--tag={name}"], context, parent, name, folder, say)
    target = f"docker-archive:{folder / 'image.tar'}:{name}"
    _buildah(["push", name, target], f"{name}'s archive", folder, say)


def _context(folder: Path) -> Path:
    """What goes into the image of this folder, for the time of its build."""
    return folder.parent / "context"


def _short(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _make_models(mlserver: Path, say: Say, folder: Path) -> None:
    target = folder / "models"
    _bud([f"--output={target}"], DOCKERFILES / "models", mlserver, "the models", folder, say)
    target.chmod(0o755)


def _bud(
    options: list[str], context: Path, parent: Path | None, what: str, folder: Path, say: Say
) -> None:
    base = [f"--build-arg=BASE=docker-archive:{parent}"] if parent else []
    given = ["--isolation=chroot", f"--secret=id=ca,src={_CERTIFICATES}", *base, *options]
    _buildah(["bud", *given, str(context)], what, folder, say)


def _buildah(arguments: list[str], what: str, folder: Path, say: Say) -> None:
    """Run buildah on a store of its own, which is gone after the build; so are its mounts."""
    store = folder.parent
    options = ["--storage-driver=overlay", f"--root={store}/store", f"--runroot={store}/run"]
    command = ["unshare", "--mount", "buildah", *options, *arguments]
    run_build(command, what, folder, say, env={"TMPDIR": str(store)})
