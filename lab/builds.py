"""The lab's programs, built from pinned Go modules into a cache that runs share."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

Say = Callable[[str], None]
Mode = Literal["standard", "knative"]  # of KServe
KServe = Literal["0.15", "0.16", "0.20"]  # its release

GO_MODULES = Path(__file__).parent / "go"
OLDEST_GO = (1, 25, 8)
NEWEST_KSERVE: KServe = "0.20"
NEWS_EVERY = 15.0  # seconds between two lines about a build that goes on

_VERSION = "k8s.io/component-base/version"
# Without a version, clients of the API server refuse what they read as v0.0.0.
_KUBERNETES_VERSION = (
    f" -X {_VERSION}.gitVersion=v1.34.4 -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=34"
)


class BuildFailed(RuntimeError):
    """A program of the lab cannot be built; the message says why in one line and where to look."""


@dataclass(frozen=True)
class GoModule:
    """A folder of `root` and the programs built from it: file name -> Go package."""

    name: str
    programs: dict[str, str]
    ldflags: str = "-s -w"
    root: Path = GO_MODULES

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def digest(self) -> str:
        """Tells builds apart: it changes with whatever the programs are made from."""
        files = [*(self.folder / file for file in ("go.mod", "go.sum")), *self._sources()]
        recipe = json.dumps([self.programs, self.ldflags]).encode()
        contents = [*(file.read_bytes() for file in files), recipe]
        return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]

    def _sources(self) -> list[Path]:
        return sorted(self.folder.rglob("*.go"))


def _kubernetes(*programs: str) -> GoModule:
    packages = {name: f"k8s.io/kubernetes/cmd/{name}" for name in programs}
    return GoModule("kubernetes", packages, "-s -w" + _KUBERNETES_VERSION)


CONTROL_PLANE = (
    GoModule("grpcurl", {"grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl"}),
    GoModule("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    _kubernetes("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
)
SIMULATED_NODE = (GoModule("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),)
REAL_NODE = (_kubernetes("kubelet", "kube-proxy"),)
KNATIVE = (
    GoModule(
        "knative",
        {
            "knative-webhook": "knative.dev/serving/cmd/webhook",
            "knative-controller": "./controller",
            "knative-autoscaler": "knative.dev/serving/cmd/autoscaler",
        },
    ),
)
QUEUE_PROXY_PROGRAM = GoModule("knative", {"queue-proxy": "knative.dev/serving/cmd/queue"})


def control_plane(mode: Mode, kserve: KServe = NEWEST_KSERVE) -> tuple[GoModule, ...]:
    """The modules of every lab of this mode and this release of KServe."""
    common = (*CONTROL_PLANE, kserve_module(kserve))
    return (*common, *KNATIVE) if mode == "knative" else common


def kserve_module(kserve: KServe = NEWEST_KSERVE) -> GoModule:
    """KServe's controller of this release, with the dependencies that the release was made with."""
    name = "kserve" if kserve == NEWEST_KSERVE else f"kserve-{kserve}"
    return GoModule(name, {"kserve-manager": "github.com/kserve/kserve/cmd/manager"})


def cache_folder() -> Path:
    """Where builds are kept between runs: below $XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "modelservice" / "lab"


def programs(modules: Iterable[GoModule], say: Say) -> dict[str, Path]:
    """The modules' programs by name, building first what is missing. Raises BuildFailed."""
    check_go()
    built: dict[str, Path] = {}
    for module in modules:
        build = partial(_build_programs, module, say)
        folder = built_once(f"{module.name}-{module.digest()}/bin", build, say)
        built |= {name: folder / name for name in module.programs}
    return built


def check_go() -> None:
    """Raise BuildFailed when there is no Go, or one too old for the pinned modules."""
    needed = ".".join(map(str, OLDEST_GO))
    if shutil.which("go") is None:
        raise BuildFailed(f"the lab is built with Go {needed} or later, and no `go` is on the PATH")
    # In the root folder no go.mod can ask for another toolchain.
    told = subprocess.run(["go", "env", "GOVERSION"], cwd="/", capture_output=True, text=True)
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", told.stdout.strip())
    if not found or tuple(int(part or 0) for part in found.groups()) < OLDEST_GO:
        raise BuildFailed(
            f"the lab is built with Go {needed} or later, and `go` is {told.stdout.strip()}"
        )


def module_source(module: str, path: str) -> Path:
    """The folder of a module's source in Go's module cache (fetched when it is not there)."""
    fetched = subprocess.run(
        ["go", "mod", "download", "-json", path],
        cwd=GO_MODULES / module,
        capture_output=True,
        text=True,
    )
    if fetched.returncode:
        raise BuildFailed(f"cannot fetch the source of {path}: {fetched.stderr or fetched.stdout}")
    return Path(json.loads(fetched.stdout)["Dir"])


def built_once(path: str, build: Callable[[Path], None], say: Say) -> Path:
    """The folder `<room>/<name>` in the cache. Where there is none, `build` fills an empty folder
    that becomes it; no other run builds in that room meanwhile. Raises BuildFailed."""
    folder = cache_folder() / path
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / "lock", f"another run is building {path}: waiting", say):
            if not folder.exists():
                _fill(folder, path, build, say)
    return folder


@contextmanager
def locked(path: Path, waiting: str, say: Say) -> Iterator[None]:
    """Keep other runs out, which hold the same lock; `waiting` is said where one is in."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill(folder: Path, path: str, build: Callable[[Path], None], say: Say) -> None:
    say(f"building {path}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:
        # One rename, so that a folder of that name is always complete.
        unfinished = Path(parent) / folder.name
        unfinished.mkdir()
        build(unfinished)
        unfinished.rename(folder)
    say(f"built {path} in {time.monotonic() - began:.0f} s")


def _build_programs(module: GoModule, say: Say, folder: Path) -> None:
    for name, package in module.programs.items():
        flags = ["-trimpath", f"-ldflags={module.ldflags}", "-o", folder / name]
        run_build(
            ["go", "build", *flags, package],
            name,
            folder,
            say,
            cwd=module.folder,
            # Go's work folder goes where it is removed even when go does not come to it.
            env={"CGO_ENABLED": "0", "GOTMPDIR": str(folder.parent)},
        )


def run_build(
    command: Sequence[str | Path],
    what: str,
    folder: Path,
    say: Say,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run one step of the build that fills `folder` to its end, with news of it from time to time.
    Raises BuildFailed with the end of what it printed."""
    log = folder.parents[1] / "build.log"
    began = time.monotonic()
    with log.open("w") as output:
        build = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | (env or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            # Images are read by other users than the one who builds them.
            umask=0o022,
        )
        try:
            _tell_until_done(build, f"still building {what}", began, say)
        except BaseException:
            # Interrupted, go waits for the compilers that it started.
            build.send_signal(signal.SIGINT)
            build.wait()
            raise
    if build.returncode:
        raise BuildFailed(f"building {what} failed, see {log}:\n{_tail(log)}")


def _tell_until_done(build: subprocess.Popen[bytes], news: str, began: float, say: Say) -> None:
    while True:
        try:
            build.wait(timeout=NEWS_EVERY)
        except subprocess.TimeoutExpired:
            say(f"{news}, {time.monotonic() - began:.0f} s")
        else:
            return


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
