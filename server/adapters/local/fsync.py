"""Bringing to disk."""

from __future__ import annotations

import os
from pathlib import Path


def sync(place: Path) -> None:
    """Have a file's content, or a folder's names, survive a power cut. Raises OSError."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
