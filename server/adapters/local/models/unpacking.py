"""Unpacking archives."""

from __future__ import annotations

import gzip
import lzma
import shutil
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

from server.adapters.local.models.model_sources import CHECK_URI, FetchFailed

_BROKEN = (
    *(shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile),
    *(lzma.LZMAError, zlib.error, EOFError),
)


def unpacked(path: Path) -> Path:
    """Replace an archive by a folder of what is in it; leave anything else. Answers where it is.

    Raises FetchFailed.
    """
    suffix = path.is_file() and next((s for s in _suffixes() if path.name.endswith(s)), None)
    if not suffix:
        return path
    folder = path.with_name(path.name.removesuffix(suffix) or "model")
    try:
        _unpack(path, folder)
    except _BROKEN as e:
        raise FetchFailed(
            f"{path.name} is broken or no archive: {e}", "store a whole one, then deploy again"
        ) from e
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FetchFailed(f"{path.name} has no files", CHECK_URI)
    path.unlink()
    return folder


def _suffixes() -> list[str]:
    return [suffix for _, suffixes, _ in shutil.get_unpack_formats() for suffix in suffixes]


def _unpack(path: Path, folder: Path) -> None:
    """Never outside of the folder; of a tar file that has to be asked for."""
    if path.name.endswith(".zip"):
        shutil.unpack_archive(path, folder)
    elif hasattr(tarfile, "data_filter"):
        shutil.unpack_archive(path, folder, filter="data")
    else:
        raise FetchFailed(
            f"Python {sys.version.split()[0]} cannot unpack a tar file safely",
            "run this server with Python 3.11.4 or later, or store the files unpacked",
        )
