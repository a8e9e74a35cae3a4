"""Debian's packages, installed where tests need what the machine lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

_ROOTS_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin"


class InstallFailed(RuntimeError):
    """The packages cannot be installed; the message has the end of what was printed."""


def missing(packages: Mapping[str, str]) -> list[str]:
    """Those packages of which what is used is not there: a program by its name, or a file."""
    return [package for package, used in packages.items() if not _is_there(used)]


def _is_there(used: str) -> bool:
    if "/" in used:
        return Path(used).exists()
    return bool(shutil.which(used, path=f"{os.environ.get('PATH', '')}:{_ROOTS_PROGRAMS}"))


def install(packages: list[str], say: Callable[[str], object]) -> None:
    """Install them, in place of nothing that is there. Raises InstallFailed."""
    # Debian's containerd and runc would push Docker's own off the machine.
    options = ["--yes", "--no-remove", "--no-install-recommends"]
    # A fresh machine may still be at its own updates.
    patient = ["-o", "DPkg::Lock::Timeout=300"]
    command = ["apt-get", *patient, "install", *options, *packages]
    say(" ".join(command))
    # Without lists nothing is found, and old lists name files that are gone.
    run(["apt-get", *patient, "update"])
    run(command)


def run(command: list[str]) -> None:
    """Run it to its end, whatever comes: dpkg is not to be cut short. Raises InstallFailed."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with (
        tempfile.TemporaryFile() as output,
        # Of its own session, so that Ctrl-C does not reach it.
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        process.wait()
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if process.returncode:
        raise InstallFailed(f"{' '.join(command)} failed:\n{printed[-2000:]}")
