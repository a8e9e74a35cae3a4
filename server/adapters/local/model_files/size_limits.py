"""The limits of one model: bytes, files, depth, and free disk space."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from server.adapters.local.model_files.model_sources import CHECK_URI, FetchFailed

# The space that stays free for the records of services; on a small disk, a part of the disk.
KEPT_FREE_BYTES = 1 << 30
KEPT_FREE_PART = 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The limits of one model. `files` and `depth` end links that form a cycle."""

    bytes: int = 100 << 30
    files: int = 50_000
    depth: int = 40


AS_SHIPPED = SizeLimits()


class SizeBudget:
    """Counts one download into a folder against the limits. `shown` is its URI for messages.

    `checkpoint` is called for each file and chunk; an error that it raises ends the download.
    """

    def __init__(
        self, limits: SizeLimits, folder: Path, shown: str, checkpoint: Callable[[], None]
    ) -> None:
        self.written = 0
        self._limits = limits
        self._folder = folder
        self._shown = shown
        self._checkpoint = checkpoint
        self._entries = 0

    def enter(self, depth: int) -> None:
        """Count a file or folder at a depth. Raises FetchFailed."""
        self._checkpoint()
        self._entries += 1
        if self._entries > self._limits.files:
            raise self._refusal(f"more than {self._limits.files} files and folders")
        if depth > self._limits.depth:
            raise self._refusal(f"folders more than {self._limits.depth} deep")

    def expect(self, size: int) -> None:
        """Refuse further bytes that exceed a limit. Raises FetchFailed."""
        if self.written + size > self._limits.bytes:
            raise self._too_large()
        if size > self._free():
            raise self._no_space()

    def copy(self, reading: BinaryIO, target: Path) -> int:
        """Copy a file to a new one, and return its size. Raises FetchFailed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        before = self.written
        with target.open("xb") as writing:
            while chunk := reading.read(_CHUNK_BYTES):
                self.expect(len(chunk))
                writing.write(chunk)
                self.written += len(chunk)
                self._checkpoint()
        return self.written - before

    def _free(self) -> int:
        disk = shutil.disk_usage(self._folder)
        return disk.free - min(KEPT_FREE_BYTES, disk.total // KEPT_FREE_PART)

    def _too_large(self) -> FetchFailed:
        return FetchFailed(
            f"{self._shown} must have at most {self._limits.bytes} bytes, and has more",
            "use a smaller model, or raise MODELSERVICE_MODEL_SIZE_LIMIT",
        )

    def _no_space(self) -> FetchFailed:
        return FetchFailed(
            f"no space is left on the disk for {self._shown}",
            "free some, or set MODELSERVICE_STATE_DIR to a folder of another disk",
        )

    def _refusal(self, what: str) -> FetchFailed:
        return FetchFailed(f"{self._shown} has {what}; links may lead in circles", CHECK_URI)
