"""The sources of model files: every filesystem that fsspec reaches."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote

import aiohttp
import fsspec

from server.adapters.local.model_files.file_names import name_of_answer, path_name, query_name
from server.domain.rollout.status import FailureReason

# The schemes of files to download that KServe reads too, with the package that each needs.
_PACKAGES = {
    "file": "fsspec",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "gs": "gcsfs",
    "hf": "huggingface_hub",
}
_SILENT_AFTER = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
# Python's invalidate_caches raises KeyError in two threads at once.
_INVALIDATING = threading.Lock()


CHECK_URI = "check spec.model.storage_uri"


class FetchFailed(Exception):
    """The model's files cannot be fetched; `remedy` says what to do."""

    def __init__(
        self, message: str, remedy: str, reason: FailureReason = FailureReason.STORAGE_DOWNLOAD
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = remedy


class SourceFile(NamedTuple):
    """A file of a model: its path below the model's folder, and its entry in the listing."""

    relative: PurePosixPath
    entry: dict[str, Any]

    @property
    def size(self) -> int | None:
        """The size in bytes; None if the source does not say."""
        return cast("int | None", self.entry.get("size"))


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder of a filesystem. Each method blocks, and raises the filesystem's errors."""

    filesystem: Any
    path: str
    name: str
    shown: str

    def files(self, enter: Callable[[int], None] = lambda depth: None) -> list[SourceFile]:
        """List the files, symbolic links followed; `relative` is empty for a single file.

        `enter` is called with the depth of each file and folder; an error that it raises ends the
        walk. Raises FetchFailed if there is no file, or an entry that is neither file nor folder.
        """
        entry = self.filesystem.info(self.path)
        found = list(self._below(PurePosixPath(), entry, enter))
        if not found:
            raise FetchFailed(f"{self.shown} has no files", CHECK_URI)
        return found

    def _below(
        self, at: PurePosixPath, entry: dict[str, Any], enter: Callable[[int], None]
    ) -> Iterator[SourceFile]:
        enter(len(at.parts))
        if entry["type"] == "file":
            yield SourceFile(at, entry)
        elif entry["type"] == "directory":
            for child in self.filesystem.ls(entry["name"], detail=True):
                # Object stores list a folder's own entry among its files.
                if child["name"].rstrip("/") != entry["name"].rstrip("/"):
                    below = at / _safe_name(child)
                    yield from self._below(below, self._followed(child), enter)
        else:
            raise FetchFailed(f"{self.shown}: {at} is neither a file nor a folder", CHECK_URI)

    def _followed(self, entry: dict[str, Any]) -> dict[str, Any]:
        return self.filesystem.info(entry["name"]) if entry.get("islink") else entry

    def open(self, file: SourceFile) -> BinaryIO:
        """Open a file for reading."""
        # Over HTTP in one request: blocks could be of different versions.
        options = {"block_size": 0} if "http" in self.filesystem.protocol else {}
        return cast(BinaryIO, self.filesystem.open(file.entry["name"], "rb", **options))

    def name_given(self, reading: BinaryIO) -> str:
        """Return the name of an open single file: over HTTP, the name in the answer."""
        answer = getattr(reading, "r", None)
        if not isinstance(answer, aiohttp.ClientResponse):
            return self.name
        header = answer.content_disposition
        name = name_of_answer(self.path, str(answer.url), header.filename if header else None)
        return name or self.name

    def has_changed(self, file: SourceFile) -> bool:
        """Report whether a local file was written since it was listed.

        On other filesystems a read is always of one version.
        """
        if "mtime" not in file.entry:
            return False
        now = self.filesystem.info(file.entry["name"])
        return any(now[key] != file.entry[key] for key in ("size", "mtime", "ino"))


def names_source(uri: str) -> bool:
    """Report whether a storage_uri is empty, a URI, or an absolute path."""
    scheme, has_scheme, path = uri.partition("://")
    if has_scheme and scheme != "file":
        return True
    return not uri or (path.removeprefix("localhost") if has_scheme else uri).startswith("/")


def source_of(uri: str) -> Source:
    """Return the source of a URI or an absolute path. Raises FetchFailed. Asks no network."""
    scheme, has_scheme, rest = uri.partition("://")
    if not has_scheme:
        scheme, path = "file", uri
    elif scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
    elif scheme in ("http", "https"):
        path = uri
    else:
        path = rest.rstrip("/")
    if scheme == "hf":
        path = _pinned(path)
    return Source(_filesystem(scheme), path, _name(scheme, path, uri), shown(uri))


def _name(scheme: str, path: str, uri: str) -> str:
    """Return the name of the file or folder."""
    if scheme == "file" and not path.startswith("/"):
        raise FetchFailed(f"{shown(uri)} must be a URI or an absolute path", CHECK_URI)
    if scheme in ("http", "https"):
        name = path_name(path) or query_name(path)
    else:
        name = PurePosixPath(path).name
    if scheme == "hf":
        name = name.partition("@")[0]
    if name in ("", ".."):
        raise FetchFailed(f"{shown(uri)} must name a file or folder", CHECK_URI)
    return name


def _pinned(path: str) -> str:
    """Turn KServe's `owner/model:revision` into fsspec's `owner/model@revision`."""
    owner, slash, rest = path.partition("/")
    model, below_slash, below = rest.partition("/")
    name, _, revision = model.partition(":")
    pinned = f"{name}@{revision}" if revision else name
    return f"{owner}{slash}{pinned}{below_slash}{below}"


def _filesystem(scheme: str) -> Any:
    package = _PACKAGES.get(scheme)
    if package is None:
        raise FetchFailed(
            f"this server cannot read {scheme}://",
            f"use an absolute path, or one of {', '.join(_PACKAGES)} in place of {scheme}",
            FailureReason.STORAGE_SCHEME,
        )
    options = {}
    if package == "aiohttp":
        options["client_kwargs"] = {"timeout": _SILENT_AFTER, "trust_env": True}
    try:
        filesystem = _imported(scheme, options)
    except ImportError as e:
        raise FetchFailed(
            f"{scheme}:// needs the package {package}, which the server's Python lacks",
            f"{sys.executable} -m pip install {package}; then deploy again",
            FailureReason.STORAGE_SCHEME,
        ) from e
    _close_in_own_loop(filesystem)
    return filesystem


def _close_in_own_loop(filesystem: Any) -> None:
    """Let a filesystem close its connections in fsspec's own event loop.

    It does so once it is collected as garbage, in whichever thread that happens, and waits there
    for fsspec's loop. That thread can be the server's, whose event loop may not wait.
    """
    if close := getattr(filesystem, "close_session", None):

        def close_session(loop: asyncio.AbstractEventLoop, *arguments: object) -> None:
            loop.call_soon_threadsafe(close, loop, *arguments)

        filesystem.close_session = close_session


def _imported(scheme: str, options: dict[str, Any]) -> Any:
    # A cached filesystem would answer with old listings.
    make = partial(fsspec.filesystem, scheme, skip_instance_cache=True, **options)
    try:
        return make()
    except ImportError:
        # The package may have been installed since Python looked for it last.
        with _INVALIDATING:
            importlib.invalidate_caches()
    return make()


def _safe_name(entry: dict[str, Any]) -> str:
    name = PurePosixPath(entry["name"]).name
    if name in ("", "..") or "\0" in name:
        raise FetchFailed(
            f"{entry['name']!r} cannot be the name of a file on this machine", CHECK_URI
        )
    return name


# Nothing that matches has room for a password.
_HOST = re.compile(r"(\[[\w.:%]*\]|[^:@\[\]]*)(:\d*)?")


def shown(uri: str) -> str:
    """Return a URI without user, password and query, which may be secret.

    A host that may be a part of a password is hidden too.
    """
    plain = re.split(r"[?#]", uri, maxsplit=1)[0]
    scheme, separator, rest = plain.partition("://")
    if not separator:
        return plain if plain.startswith("/") or "@" not in plain else "***"
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host):
        return f"{scheme}://***"
    return f"{scheme}://{host}{slash}{path}"
