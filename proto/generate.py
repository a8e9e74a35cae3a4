"""Generate the Python stubs from the protos, or check that they are up to date."""

import argparse
import fcntl
import filecmp
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "generated" / "modelservice"
LOCK = PROTO / "requirements.lock"
VENV = ROOT / ".venv-stubs"


def main() -> int:
    """Write the stubs, or with --check compare them; 0 is done or equal, 1 is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; end with 1 and name the files that differ from generated/",
    )
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        if check:
            return report(differing(fresh, STUBS))
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(fresh, STUBS)
    return 0


def generate(folder: Path) -> Path:
    """Generate into a folder; return the package `modelservice` inside it."""
    python = locked_python(VENV, LOCK)
    protos = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    plugins = [
        f"--plugin=protoc-gen-{name}={python.with_name(f'protoc-gen-{name}')}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{folder}" for kind in ("mypy", "mypy_grpc")]
    command = [str(python), "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outputs, *protos]
    subprocess.run(command, check=True)
    package = folder / "modelservice"
    for marker in ("__init__.py", "py.typed", "v1/__init__.py"):
        (package / marker).touch()
    return package


def locked_python(venv: Path, lock: Path) -> Path:
    """Return the Python of an environment made from the lock; made anew when the lock changed.

    Runs that need it at once make it one after another.
    """
    folder = os.open(venv.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        return _made_from(venv, lock)
    finally:
        os.close(folder)


def _made_from(venv: Path, lock: Path) -> Path:
    python = venv / "bin" / "python"
    stamp = venv / "lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([str(python), *install, "--require-hashes", "-r", str(lock)], check=True)
    stamp.write_text(digest)
    return python


def differing(fresh: Path, committed: Path) -> list[str]:
    """Name the files that one side lacks, or whose bytes differ."""
    names = files_of(fresh) | files_of(committed)
    same, _, _ = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
    return sorted(names - set(same))


def files_of(package: Path) -> set[str]:
    """Name a package's files, relative to it, without Python's caches."""
    return {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def report(stale: list[str]) -> int:
    """Tell which stubs are stale, and how to renew them."""
    for name in stale:
        print(f"differs from the protos: generated/modelservice/{name}", file=sys.stderr)
    if stale:
        print("run: make stubs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
