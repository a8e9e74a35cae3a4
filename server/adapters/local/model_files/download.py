"""Downloading model files: whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import aiohttp

from server.adapters.local.fsync import sync
from server.adapters.local.model_files.archives import unpacked
from server.adapters.local.model_files.model_sources import (
    CHECK_URI,
    FetchFailed,
    Source,
    SourceFile,
    shown,
    source_of,
)
from server.adapters.local.model_files.size_limits import AS_SHIPPED, Allowance, SizeLimits

PARTIAL_SUFFIX = ".partial"


class Abandoned(Exception):
    """Nobody waits for the download any longer."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many bytes have come; `total` is None where the source does not say."""

    done: int
    total: int | None

    def __str__(self) -> str:
        done = _bytes_shown(self.done)
        return done if self.total is None else f"{done} of {_bytes_shown(self.total)}"


# Without a progress: nothing has come since.
WentOn = Callable[[Progress | None], None]


def download(uri: str, into: Path, went_on: WentOn, limits: SizeLimits = AS_SHIPPED) -> Path:
    """Copy what is at `uri` into `into`, unless that exists, and answer its path there. Blocks.

    Files of this machine are copied too, and not linked: a model that is trained anew is written
    over the old one, which a server that starts again must find as it was. A lone archive is
    unpacked, as KServe does. `went_on` is called for each file and chunk; what it raises ends the
    download, and so does what goes beyond the limits or the free disk. What a process that died
    leaves lies beside `into` and ends in PARTIAL_SUFFIX.
    Raises FetchFailed.
    """
    try:
        return _kept(into) or _brought(source_of(uri), into, went_on, limits)
    except (FetchFailed, Abandoned):
        raise
    except Exception as e:
        # Every filesystem has errors of its own.
        raise _translated(e, uri) from e


def _kept(into: Path) -> Path | None:
    return next(into.iterdir()) if into.is_dir() else None


def _brought(source: Source, into: Path, went_on: WentOn, limits: SizeLimits) -> Path:
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(PARTIAL_SUFFIX, f".{into.name}.", into.parent))
    total: int | None = None

    def checkpoint() -> None:
        went_on(Progress(allowance.written, total) if allowance.written else None)

    allowance = Allowance(limits, partial, source.shown, checkpoint)
    try:
        files = source.files(allowance.enter)
        sizes = [file.size for file in files if file.size is not None]
        allowance.expect(sum(sizes))
        total = sum(sizes) if len(sizes) == len(files) else None
        model = partial / source.name
        for file in files:
            model = _copied(source, file, partial, allowance)
        total = None
        model = unpacked(model, allowance)
        _sync_all(partial)
        _put(partial, into)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return into / model.name


def _put(partial: Path, into: Path) -> None:
    try:
        partial.rename(into)
    except OSError:
        # A download that was given up can have come first with the same model, whole.
        if _kept(into) is None:
            raise
        shutil.rmtree(partial)


def _copied(source: Source, file: SourceFile, partial: Path, allowance: Allowance) -> Path:
    """Copy one file, and answer where the model is by that."""
    with source.open(file) as reading:
        model = partial / (source.name if file.relative.parts else source.name_given(reading))
        size = allowance.copy(reading, model / file.relative)
    _refuse_other_content(source, file, size)
    return model


def _refuse_other_content(source: Source, file: SourceFile, size: int) -> None:
    if file.size not in (None, size) or source.has_changed(file):
        raise FetchFailed(
            f"{source.shown} changed while it was read: {size} bytes came, {file.size} were there",
            "wait until it is written, then deploy again",
        )


def _sync_all(folder: Path) -> None:
    """Have it all on the disk, so that no power cut can leave names without their content."""
    for place in (*folder.rglob("*"), folder):
        sync(place)


def _translated(error: Exception, uri: str) -> FetchFailed:
    where = shown(uri)
    match error:
        case FileNotFoundError(__cause__=aiohttp.ClientError() as cause):
            return _translated(cause, uri)  # so fsspec takes every failure over HTTP
        case FileNotFoundError() | aiohttp.ClientResponseError(status=404):
            return FetchFailed(f"there is nothing at {where}", CHECK_URI)
        case aiohttp.ClientResponseError(status=status):
            return FetchFailed(f"{where} is answered with HTTP status {status}", CHECK_URI)
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
                "free some, or let MODELSERVICE_STATE_DIR name a folder of another disk",
            )
    text = (str(error).splitlines() or [""])[0].replace(uri, where)
    return FetchFailed(f"{where} cannot be read: {type(error).__name__}: {text}", CHECK_URI)


def _bytes_shown(count: int) -> str:
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"
