"""What one model may take: of bytes, of files, of depth, and of the free disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from server.adapters.local.model_files.model_sources import CHECK_URI, FetchFailed

# Left free on the disk for the records of services and for all else; of a small disk, a part.
KEPT_FREE_BYTES = 1 << 30
KEPT_FREE_PART = 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The limits of one model. Links that lead in circles end at `files` and `depth`."""

    bytes: int = 100 << 30
    files: int = 50_000
    depth: int = 40


AS_SHIPPED = SizeLimits()


class Allowance:
    """What is left of the limits for one download, `shown` by its URI, into a folder.

    `checkpoint` is called again and again and ends the download by what it raises.
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
        """Count a file or folder, so many folders below the top. Raises FetchFailed."""
        self._checkpoint()
        self._entries += 1
        if self._entries > self._limits.files:
            raise self._refusal(f"more than {self._limits.files} files and folders")
        if depth > self._limits.depth:
            raise self._refusal(f"folders more than {self._limits.depth} deep")

    def expect(self, size: int) -> None:
        """Refuse at once what is known to be too large. Raises FetchFailed."""
        if self.written + size > self._limits.bytes:
            raise self._too_large()
        if size > self._free():
            raise self._no_space()

    def copy(self, reading: BinaryIO, target: Path) -> int:
        """Write all of a file to a new one; how many bytes that were. Raises FetchFailed."""
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
            f"{self._shown} has more than the {self._limits.bytes} bytes that a model may have",
            "use a smaller model, or raise MODELSERVICE_MODEL_SIZE_LIMIT",
        )

    def _no_space(self) -> FetchFailed:
        return FetchFailed(
            f"no space is left on the disk for {self._shown}",
            "free some, or let MODELSERVICE_STATE_DIR name a folder of another disk",
        )

    def _refusal(self, what: str) -> FetchFailed:
        return FetchFailed(f"{self._shown} has {what}; links may lead in circles", CHECK_URI)
