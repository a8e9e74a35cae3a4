"""Reads files of operators up to a maximum size."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class FileUnusable(Exception):
    """The file cannot be read, is no regular file, or is empty or too large; the message says so
    with its path."""


def read_file(path: Path, most: int) -> bytes:
    """Read a regular file of 1 to `most` bytes. Raises FileUnusable. It never waits for a pipe."""
    try:
        # A pipe would keep the reader waiting for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileUnusable(f"{path} must be a file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError as e:
        raise FileUnusable(
            f"{path} cannot be read ({os.strerror(e.errno or 0)}): it must be a file that user"
            f" {os.getuid()} may read"
        ) from None
    if len(content) > most:
        raise FileUnusable(f"{path} must have at most {most} bytes")
    if not content:
        raise FileUnusable(f"{path} is empty")
    return content
