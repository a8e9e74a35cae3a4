"""The state directory: one file for each service, and one server at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from server import failpoints
from server.adapters.local.fsync import sync
from server.adapters.local.stored_service import Record, from_json, to_json
from server.domain.errors import ClusterUnavailable, WriteOutcomeUnknown
from server.domain.service.inference_service import ServiceKey

log = structlog.get_logger(__name__)

# How the files end of services that are there, and of those that are being deleted.
_KEPT = ".json"
_DELETED = ".deleted"
_PRIVATE = 0o700
_PRIVATE_FILE = 0o600


class StateDirUnusable(Exception):
    """The directory cannot be worked on; the message is for operators."""


class StateDir:
    """What survives this process. Everything here blocks, for as long as the disk takes.

    `owner` names the directory, wherever it is moved.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.owner = owner
        self._services = path / "services"
        self._work = path / "work"
        self._settled = True

    def records(self) -> list[Record]:
        """All that is stored. A file that is not one of ours is set aside, which the log says.
        Raises StateDirUnusable where one cannot be read, or not be set aside."""
        kept = [self._read(file) for file in sorted(self._services.glob(f"*{_KEPT}"))]
        gone = [self._read_deleted(f) for f in sorted(self._services.glob(f"*{_DELETED}"))]
        return [record for record in kept + gone if record]

    def write(self, record: Record) -> None:
        """Store, so that it is there after a crash of the machine.

        Raises ClusterUnavailable where nothing was written, and WriteOutcomeUnknown where it is in
        place, though a crash of the machine may undo that until `settle`.
        """
        file = self._file(record.service.key)
        failpoints.reached("before-write")
        with _nothing_written_on_error():
            _replace(file, to_json(record))
        self._keep_names()
        failpoints.reached("after-write")

    def mark_deleted(self, key: ServiceKey) -> None:
        """Store that a service is to be deleted, without taking space: by the name of its file, so
        that a full disk can be freed. Raises as `write` does.
        """
        failpoints.reached("before-write")
        with _nothing_written_on_error():
            failpoints.reached("before-rename")
            self._file(key).rename(self._file(key, _DELETED))
        self._keep_names()
        failpoints.reached("after-write")

    def remove(self, key: ServiceKey) -> None:
        """Forget a service. Raises ClusterUnavailable where that failed."""
        try:
            for ending in (_KEPT, _DELETED):
                self._file(key, ending).unlink(missing_ok=True)
        except OSError as e:
            raise ClusterUnavailable(f"the state directory cannot be written: {e.strerror}") from e
        self._keep_names()

    def settle(self) -> None:
        """Make last what is in place. Raises WriteOutcomeUnknown."""
        if not self._settled:
            self._keep_names()

    def work(self, uid: str, generation: int) -> Path:
        """Where a generation keeps what it needs while it lives; not made yet."""
        return self._work / uid / str(generation)

    def leftovers(self, kept: Mapping[str, Collection[int]]) -> list[Path]:
        """The working directories of all but these services, by uid, and their generations.

        None of them is ever made again: a new service has another uid, and a new generation
        another number.
        """
        found: list[Path] = []
        for service in self._work.iterdir():
            if service.name in kept:
                needed = {str(generation) for generation in kept[service.name]}
                found += [folder for folder in service.iterdir() if folder.name not in needed]
            else:
                found.append(service)
        return found

    def _file(self, key: ServiceKey, ending: str = _KEPT) -> Path:
        return self._services / f"{key.namespace}.{key.name}{ending}"

    def _read_deleted(self, file: Path) -> Record | None:
        """The record of a service that is to be deleted, since its file was renamed."""
        renamed_at = datetime.fromtimestamp(file.stat().st_ctime, UTC)
        record = self._read(file)
        return record.deleted(renamed_at) if record else None

    def _read(self, file: Path) -> Record | None:
        try:
            return from_json(file.read_bytes())
        except ValueError:
            self._set_aside(file)
            return None
        except OSError as e:
            raise StateDirUnusable(f"{file} cannot be read: {e.strerror}") from e

    def _set_aside(self, file: Path) -> None:
        aside = file.with_name(f"{file.name}.unreadable-{secrets.token_hex(4)}")
        try:
            file.rename(aside)
        except OSError as e:
            raise StateDirUnusable(f"{file} cannot be set aside: {e.strerror}") from e
        log.error(
            "a stored service cannot be read and does not run: start the version that stored it,"
            " under its old name, or deploy it anew",
            file=str(file),
            set_aside=str(aside),
        )

    def _keep_names(self) -> None:
        self._settled = False
        try:
            sync(self._services)
            self._settled = True
        except OSError as e:
            raise WriteOutcomeUnknown(
                f"the state directory could not be brought to disk: {e.strerror}"
            ) from e


@contextmanager
def open_state_dir(path: Path) -> Iterator[StateDir]:
    """Hold the directory, made if need be, for the length of a block.

    Raises StateDirUnusable, which says who holds it where another server does.
    """
    try:
        for folder in (path, path / "services", path / "work"):
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
    except OSError as e:
        raise StateDirUnusable(_unusable(path, e)) from e
    with open(descriptor, "r+") as lock:  # noqa: PTH123
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = lock.read().strip() or "another process"
            raise StateDirUnusable(
                f"MODELSERVICE_STATE_DIR: {path} is in use by {holder}; stop that server, or give"
                " this one another directory"
            ) from None
        yield _held(path, lock.fileno())


def _held(path: Path, lock: int) -> StateDir:
    try:
        os.truncate(lock, 0)
        os.pwrite(lock, f"the server with process id {os.getpid()}\n".encode(), 0)
        for leftover in (path / "services").glob("*.new"):
            leftover.unlink()
        return StateDir(path, _owner(path / "id"))
    except OSError as e:
        raise StateDirUnusable(_unusable(path, e)) from e


def _owner(file: Path) -> str:
    if not file.exists():
        _replace(file, secrets.token_hex(16).encode())
        sync(file.parent)
    return file.read_text()


def _replace(file: Path, content: bytes) -> None:
    """Put the content in place whole, or not at all."""
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE_FILE)
    try:
        with open(descriptor, "wb") as out:  # noqa: PTH123
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        failpoints.reached("before-rename")
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@contextmanager
def _nothing_written_on_error() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ClusterUnavailable(
            f"the state directory cannot be written, {e.strerror}: nothing was written"
        ) from e


def _unusable(path: Path, e: OSError) -> str:
    return f"MODELSERVICE_STATE_DIR: {path} cannot be used: {e.strerror}"
