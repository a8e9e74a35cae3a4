"""A disk that is soon full: a filesystem in memory, in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILLER = "filler"
_BLOCK = 4096


class SmallDisk:
    """`path` is the disk as everybody sees it, `inside` as a program does that `enter` runs."""

    def __init__(self, holder: int, inside: Path) -> None:
        self.inside = inside
        self.path = Path(f"/proc/{holder}/root{inside}")
        self.enter = ["nsenter", "--mount", f"--target={holder}"]

    def fill(self, spare: int = 0) -> None:
        """Leave so many bytes, and none more."""
        with (self.path / _FILLER).open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(_BLOCK))
            except OSError:
                filler.truncate(max(0, filler.tell() - spare))

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.path / _FILLER).unlink()


@contextmanager
def small_disk(inside: Path, size: str) -> Iterator[SmallDisk]:
    """The disk for the length of a block; `inside` is an empty folder, `size` as tmpfs has it."""
    mount = f'mount -t tmpfs -o size={size},mode=777 small "$0" && echo mounted && exec sleep 3600'
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    with subprocess.Popen(
        [*own, "sh", "-c", mount, inside], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        try:
            assert holder.stdout
            if not holder.stdout.readline():
                _leave_out("there can be no mount namespace here")
            yield SmallDisk(holder.pid, inside)
        finally:
            holder.kill()


def _leave_out(why: str) -> None:
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
