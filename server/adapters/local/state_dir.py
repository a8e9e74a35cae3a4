"""The state directory: a file for each service, one for each content of its earlier revisions, and
a lock for one server at a time."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from server import failpoints
from server.adapters.local.fsync import sync
from server.adapters.local.stored_service import Record, from_json, to_json
from server.domain.errors import ClusterUnavailable, ServiceError, WriteOutcomeUnknown
from server.domain.revisions.revision import Revision
from server.domain.revisions.spec_json import content_json, parse_content
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import InferenceService, ServiceKey

log = structlog.get_logger(__name__)

# The suffixes of the files of services, and of services that are being deleted.
_KEPT = ".json"
_DELETED = ".deleted"
# In the names of files that cannot be read.
_ASIDE = ".unreadable-"
# The suffix of folders in a working directory that are not whole.
PARTIAL_SUFFIX = ".partial"
_PRIVATE = 0o700
_PRIVATE_FILE = 0o600


class StateDirUnusable(Exception):
    """The directory cannot be used; the message is for operators."""


class StateDir:
    """The stored services. Every method blocks while the disk works.

    `owner` identifies the directory, also after it was moved.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.owner = owner
        self._services = path / "services"
        # A folder for each service, by its uid, with a file for each content. Contents never
        # change: a write replaces the file of the service alone.
        self._contents = path / "contents"
        self._work = path / "work"
        self._names_synced = True

    def records(self) -> list[Record]:
        """Return all records. A file that is not one is set aside and logged.

        Raises StateDirUnusable if a file can be neither read nor set aside.
        """
        kept = [self._read(file) for file in sorted(self._services.glob(f"*{_KEPT}"))]
        gone = [self._read_deleted(f) for f in sorted(self._services.glob(f"*{_DELETED}"))]
        return [self._kept_apart(record) for record in kept if record] + list(filter(None, gone))

    def write(self, record: Record) -> None:
        """Store a record so that it survives a crash of the machine, and the contents that it has
        of earlier revisions.

        Raises ClusterUnavailable if nothing was written, and WriteOutcomeUnknown if the file is in
        place but a crash of the machine may undo that until `sync_pending`.
        """
        file = self._file(record.service.key)
        revisions = record.stored.revisions
        failpoints.reached("before-write")
        with _nothing_written_on_error():
            self._write_contents(record.service, revisions[1:])
            with _new_file(file, to_json(record)) as new:
                failpoints.reached("before-rename")
                new.replace(file)
        self._sync_names()
        failpoints.reached("after-write")
        # What is left is removed after the next write, or with the service.
        with suppress(OSError):
            self._remove_contents(record.service, revisions[1:])

    def with_contents(self, revisions: Iterable[Revision]) -> list[Revision]:
        """Return earlier revisions with the contents that are kept of them.

        One whose content is damaged keeps its digest. Raises ClusterUnavailable if a content
        cannot be read for now.
        """
        return [self._with_content(revision) for revision in revisions]

    def mark_deleted(self, key: ServiceKey) -> None:
        """Store the deletion of a service by renaming its file, which works on a full disk.

        Raises as `write` does.
        """
        failpoints.reached("before-write")
        with _nothing_written_on_error():
            failpoints.reached("before-rename")
            self._file(key).rename(self._file(key, _DELETED))
        self._sync_names()
        failpoints.reached("after-write")

    def remove(self, service: InferenceService) -> None:
        """Remove the files of a service, whose generations have none any more.

        Raises ClusterUnavailable if that fails.
        """
        # Not with its last generation: another one may be about to make its own folder in there.
        with suppress(OSError):
            (self._work / service.uid).rmdir()
        try:
            # First, since only the file of the service names them: a start reads it after a crash.
            self._remove_contents(service, ())
            sync(self._contents)
            failpoints.reached("during-removal")
            for ending in (_KEPT, _DELETED):
                self._file(service.key, ending).unlink(missing_ok=True)
        except OSError as e:
            raise ClusterUnavailable(f"the state directory cannot be written: {e.strerror}") from e
        self._sync_names()

    def sync_pending(self) -> None:
        """Write to disk what an earlier write left pending. Raises WriteOutcomeUnknown."""
        if not self._names_synced:
            self._sync_names()

    def work(self, uid: str, generation: int) -> Path:
        """Return the path of a generation's working directory, which is not made yet."""
        return self._work / uid / str(generation)

    def unused_folders(self, kept: Mapping[str, Collection[int]]) -> list[Path]:
        """Return the working directories of all generations but these, by the uids of services,
        the partial folders of these, and the folders of contents of other services.

        None of them is used again: a new service has a new uid, a new generation a new number.
        """
        found: list[Path] = []
        # A file that was set aside does not tell whose contents it needs.
        if not any(self._services.glob(f"*{_ASIDE}*")):
            found += [folder for folder in self._contents.iterdir() if folder.name not in kept]
        for service in self._work.iterdir():
            if service.name in kept:
                needed = {str(generation) for generation in kept[service.name]}
                found += [folder for folder in service.iterdir() if folder.name not in needed]
                found += service.glob(f"*/*{PARTIAL_SUFFIX}")
            else:
                found.append(service)
        return found

    def _file(self, key: ServiceKey, ending: str = _KEPT) -> Path:
        return self._services / f"{key.namespace}.{key.name}{ending}"

    def _content_file(self, rollout: Rollout) -> Path:
        return self._contents / rollout.uid / f"{rollout.generation}.json"

    def _write_contents(self, service: InferenceService, revisions: Iterable[Revision]) -> None:
        """Write the contents of revisions to disk, before the file of their service names them.

        Raises OSError.
        """
        contents = {r.rollout: r.content for r in revisions if r.content}
        if not contents:
            return
        folder = self._contents / service.uid
        folder.mkdir(_PRIVATE, exist_ok=True)
        for rollout, content in contents.items():
            file = self._content_file(rollout)
            with _new_file(file, json.dumps(content_json(content)).encode()) as new:
                new.replace(file)
        sync(folder)
        sync(self._contents)

    def _with_content(self, revision: Revision) -> Revision:
        if revision.content or not revision.content_digest:
            return revision
        file = self._content_file(revision.rollout)
        try:
            return replace(revision, content=parse_content(json.loads(file.read_bytes())))
        except FileNotFoundError:
            # A write has pruned it meanwhile.
            return replace(revision, content_digest="")
        except OSError as e:
            raise ClusterUnavailable(
                f"the content of revision {revision.number} cannot be read from the state"
                f" directory, {e.strerror}: nothing was written"
            ) from e
        except ValueError:
            # With its digest, so that a rollback to it is refused, and goes no further back. The
            # error can have values of the content.
            log.error("the content of a revision is damaged", file=str(file))
            return revision

    def _remove_contents(self, service: InferenceService, kept: Iterable[Revision]) -> None:
        """Remove the contents of all revisions of a service but these. Raises OSError."""
        folder = self._contents / service.uid
        names = {self._content_file(revision.rollout).name for revision in kept}
        # A start removes the folders of deleted services too, in a thread.
        with suppress(FileNotFoundError):
            for file in folder.iterdir():
                if file.name not in names:
                    file.unlink(missing_ok=True)
            if not names:
                folder.rmdir()

    def _kept_apart(self, record: Record) -> Record:
        """Return a record without contents, which an earlier release has stored in it."""
        if all(revision.content is None for revision in record.stored.revisions):
            return record
        try:
            self.write(record)
        except ServiceError as e:
            # They stay in memory until the next write.
            log.warning("not stored", service=str(record.service.key), why=e.message)
            return record
        return record.without_contents()

    def _read_deleted(self, file: Path) -> Record | None:
        """Read the record of a deleted service; the deletion has the time of the renaming."""
        renamed_at = datetime.fromtimestamp(file.stat().st_ctime, UTC)
        record = self._read(file)
        return record.without_contents().with_deletion(renamed_at) if record else None

    def _read(self, file: Path) -> Record | None:
        try:
            return from_json(file.read_bytes())
        except ValueError:
            self._set_aside(file)
            return None
        except OSError as e:
            raise StateDirUnusable(f"{file} cannot be read: {e.strerror}") from e

    def _set_aside(self, file: Path) -> None:
        aside = file.with_name(f"{file.name}{_ASIDE}{secrets.token_hex(4)}")
        try:
            file.rename(aside)
        except OSError as e:
            raise StateDirUnusable(f"{file} cannot be set aside: {e.strerror}") from e
        log.error(
            "a stored service cannot be read and does not run: start the version that stored it,"
            " under its old name, or deploy it again",
            file=str(file),
            set_aside=str(aside),
        )

    def _sync_names(self) -> None:
        self._names_synced = False
        try:
            sync(self._services)
            self._names_synced = True
        except OSError as e:
            raise WriteOutcomeUnknown(
                f"the state directory could not be brought to disk: {e.strerror}"
            ) from e


def discard(folder: Path) -> None:
    """Remove a working directory or a folder in it. Blocks.

    A process that dies meanwhile leaves it whole, or under a name that a start removes.
    """
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    with suppress(OSError):
        folder = folder.rename(aside)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_state_dir(path: Path) -> Iterator[StateDir]:
    """Lock the directory for the length of a block, and create it if it is absent.

    Raises StateDirUnusable, with the process id of another server that has the lock.
    """
    try:
        for folder in (path, path / "services", path / "contents", path / "work"):
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
        yield _locked(path, lock.fileno())


def _locked(path: Path, lock: int) -> StateDir:
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
        with _new_file(file, secrets.token_hex(16).encode()) as new:
            new.replace(file)
        sync(file.parent)
    return file.read_text()


@contextmanager
def _new_file(file: Path, content: bytes) -> Iterator[Path]:
    """Write the content to disk beside a file, to be renamed to it. An OSError removes it."""
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE_FILE)
    try:
        with open(descriptor, "wb") as out:  # noqa: PTH123
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        yield new
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
