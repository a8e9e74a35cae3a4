"""Writing to disk."""

from __future__ import annotations

import os
from pathlib import Path


def sync(place: Path) -> None:
    """Write a file's content, or the names in a folder, to disk. Raises OSError."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
