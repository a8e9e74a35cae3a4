"""Unpacks archives: only files, only below one folder, and within the size limits."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from server.adapters.local.model_files.file_names import ARCHIVE_SUFFIXES
from server.adapters.local.model_files.model_sources import CHECK_URI, FetchFailed
from server.adapters.local.model_files.size_limits import SizeBudget

_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError),
    *(lzma.LZMAError, zlib.error, NotImplementedError, KeyError, UnicodeError),
)
# The flag of a zip entry with encrypted content.
_ENCRYPTED = 1


def unpack(path: Path, budget: SizeBudget) -> Path:
    """Replace an archive by a folder with its files, and return its path; other files stay.

    Links to files of the archive become copies. Raises FetchFailed.
    """
    name = path.name.lower()
    suffix = path.is_file() and next((s for s in ARCHIVE_SUFFIXES if name.endswith(s)), None)
    if not suffix:
        return path
    folder = path.with_name(path.name[: -len(suffix)] or "model")
    if folder == path:
        folder = path.with_name("model")
    files = _zipped if suffix == ".zip" else _tarred
    try:
        _write(files(path), folder, path.name, budget)
    except _BROKEN as e:
        raise FetchFailed(
            f"{path.name} is broken or no archive: {e}", "upload it again, then deploy again"
        ) from e
    if not folder.is_dir():
        raise FetchFailed(f"{path.name} has no files", CHECK_URI)
    path.unlink()
    return folder


_Entry = tuple[str, Callable[[], IO[bytes] | None]]


def _write(entries: Iterator[_Entry], folder: Path, archive: str, budget: SizeBudget) -> None:
    for name, opened in entries:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\0" in name:
            raise FetchFailed(
                f"{archive} has {name!r}, which lies outside of its folder",
                "pack it with names below its own folder, then deploy again",
            )
        budget.enter(len(place.parts))
        reading = opened()
        if reading is None:
            raise FetchFailed(
                f"{archive} has {name!r}, which is neither a file nor a folder",
                "pack files alone, then deploy again",
            )
        with reading:
            target = folder / place
            # As archivers do: the last of two entries with one name counts.
            if target.is_file():
                target.unlink()
            budget.copy(cast(BinaryIO, reading), target)


def _tarred(path: Path) -> Iterator[_Entry]:
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isdir():
                yield member.name, lambda m=member: archive.extractfile(m)  # type: ignore[misc]


def _zipped(path: Path) -> Iterator[_Entry]:
    with closing(zipfile.ZipFile(path)) as archive:
        for entry in archive.infolist():
            if entry.flag_bits & _ENCRYPTED:
                raise zipfile.BadZipFile("it is encrypted")
            if not entry.is_dir():
                yield entry.filename, lambda e=entry: archive.open(e)  # type: ignore[misc]
