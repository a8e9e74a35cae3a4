"""Which builds in the cache are in use, so that the others need not stay for good."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from .builds import Say, locked

_held: dict[Path, int] = {}


def hold(folder: Path) -> Path:
    """The folder, which `remove_others` leaves alone for as long as this process lives."""
    if folder not in _held:
        _held[folder] = os.open(folder, os.O_RDONLY)
        fcntl.flock(_held[folder], fcntl.LOCK_SH)
    return folder


def remove_others(folder: Path, say: Say) -> None:
    """Remove what is beside this folder in the cache and held by no process."""
    room = folder.parent
    with locked(room / "lock", f"another run builds in {room}: waiting", say):
        for other in filter(Path.is_dir, room.iterdir()):
            if _is_held(other):
                continue
            say(f"removing {other.name}, which nothing uses any more")
            shutil.rmtree(other)


def _is_held(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
