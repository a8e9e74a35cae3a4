"""Downloads model files, whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import aiohttp

from server.adapters.local.fsync import sync
from server.adapters.local.model_files.archives import unpack
from server.adapters.local.model_files.model_sources import (
    CHECK_URI,
    FetchFailed,
    Source,
    SourceFile,
    shown,
    source_of,
)
from server.adapters.local.model_files.size_limits import AS_SHIPPED, SizeBudget, SizeLimits
from server.adapters.local.state_dir import PARTIAL_SUFFIX


class DownloadCancelled(Exception):
    """The caller of the download was cancelled."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The downloaded bytes; `total` is None if the source does not say."""

    done: int
    total: int | None

    def __str__(self) -> str:
        done = _format_bytes(self.done)
        return done if self.total is None else f"{done} of {_format_bytes(self.total)}"


# None: no byte has come since the last call.
OnProgress = Callable[[Progress | None], None]


def download(
    uri: str,
    into: Path,
    on_progress: OnProgress,
    limits: SizeLimits = AS_SHIPPED,
    wanted: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Path:
    """Copy the files at `uri` into the folder `into` unless it exists. Return the model's path.

    Local files are copied too: a newly trained model overwrites the old one, and a server that
    starts again must find the old one. A single archive is unpacked, as KServe does. `on_progress`
    is called for each file and chunk. An error that it raises ends the download, as do the size
    limits and a full disk. `into` appears within a block of `wanted`, which can raise too. A
    process that dies leaves files beside `into` that end in PARTIAL_SUFFIX. Blocks. Raises
    FetchFailed.
    """
    try:
        return _kept(into) or _download(source_of(uri), into, on_progress, limits, wanted)
    except (FetchFailed, DownloadCancelled):
        raise
    except Exception as e:
        # Each filesystem raises its own errors.
        raise _fetch_error(e, uri) from e


def _kept(into: Path) -> Path | None:
    return next(into.iterdir(), None) if into.is_dir() else None


def _download(
    source: Source,
    into: Path,
    on_progress: OnProgress,
    limits: SizeLimits,
    wanted: Callable[[], AbstractContextManager[None]],
) -> Path:
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(PARTIAL_SUFFIX, f".{into.name}.", into.parent))
    total: int | None = None

    def checkpoint() -> None:
        on_progress(Progress(budget.written, total) if budget.written else None)

    budget = SizeBudget(limits, partial, source.shown, checkpoint)
    try:
        files = source.files(budget.enter)
        sizes = [file.size for file in files if file.size is not None]
        budget.expect(sum(sizes))
        total = sum(sizes) if len(sizes) == len(files) else None
        model = partial / source.name
        for file in files:
            model = _copied(source, file, partial, budget)
        total = None
        model = unpack(model, budget)
        _sync_all(partial)
        with wanted():
            partial.rename(into)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return into / model.name


def _copied(source: Source, file: SourceFile, partial: Path, budget: SizeBudget) -> Path:
    """Copy one file, and return the path of the model."""
    with source.open(file) as reading:
        model = partial / (source.name if file.relative.parts else source.name_given(reading))
        size = budget.copy(reading, model / file.relative)
    _refuse_changed_file(source, file, size)
    return model


def _refuse_changed_file(source: Source, file: SourceFile, size: int) -> None:
    if file.size not in (None, size) or source.has_changed(file):
        raise FetchFailed(
            f"{source.shown} changed while it was read: got {size} bytes of {file.size}",
            "wait until it is written, then deploy again",
        )


def _sync_all(folder: Path) -> None:
    """Write all to disk, so that no power cut leaves names without their content."""
    for place in (*folder.rglob("*"), folder):
        sync(place)


def _fetch_error(error: Exception, uri: str) -> FetchFailed:
    where = shown(uri)
    match error:
        case FileNotFoundError(__cause__=aiohttp.ClientError() as cause):
            return _fetch_error(cause, uri)  # so fsspec takes every failure over HTTP
        case FileNotFoundError() | aiohttp.ClientResponseError(status=404):
            return FetchFailed(f"there is nothing at {where}", CHECK_URI)
        case aiohttp.ClientResponseError(status=status):
            return FetchFailed(f"{where} answered with HTTP status {status}", CHECK_URI)
        case PermissionError():
            return FetchFailed(
                f"this server may not read {where}",
                "check the credentials that it was started with",
            )
        case TimeoutError():
            return FetchFailed(f"{where} does not answer in time", "try again later")
        case aiohttp.ClientConnectionError():
            return FetchFailed(f"no connection to the server of {where}", CHECK_URI)
        case OSError(errno=errno.ELOOP):
            return FetchFailed(f"{where} has links that lead in circles", CHECK_URI)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return FetchFailed(
                f"no space is left on the disk for {where}",
                "free some, or set MODELSERVICE_STATE_DIR to a folder of another disk",
            )
    text = (str(error).splitlines() or [""])[0].replace(uri, where)
    return FetchFailed(f"{where} cannot be read: {type(error).__name__}: {text}", CHECK_URI)


def _format_bytes(count: int) -> str:
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"
