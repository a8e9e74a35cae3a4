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
    """A disk that programs see which `enter` runs, at `path`; for others there is nothing. (By way
    of /proc others reach it, but SQLite goes round that.)"""

    def __init__(self, holder: int, path: Path) -> None:
        self.path = path
        self.enter = ["nsenter", "--mount", f"--target={holder}"]
        self.seen = Path(f"/proc/{holder}/root{path}")


def fill(folder: Path, spare: int = 0) -> None:
    """Leave so many bytes, and none more."""
    with (folder / _FILLER).open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(_BLOCK))
        except OSError:
            filler.truncate(max(0, filler.tell() - spare))


def make_room(folder: Path) -> None:
    """Give back what `fill` took."""
    (folder / _FILLER).unlink()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """The disk for the length of a block; `path` is an empty folder, `size` as tmpfs has it."""
    mount = f'mount -t tmpfs -o size={size},mode=777 small "$0" && echo mounted && exec sleep 3600'
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    with subprocess.Popen(
        [*own, "sh", "-c", mount, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        try:
            assert holder.stdout
            if not holder.stdout.readline():
                _leave_out("there can be no mount namespace here")
            yield SmallDisk(holder.pid, path)
        finally:
            holder.kill()


def _leave_out(why: str) -> None:
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
