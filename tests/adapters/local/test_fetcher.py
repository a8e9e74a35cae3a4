"""Model files come whole or not at all, and what fails says what to do."""

from __future__ import annotations

import asyncio
import gc
import importlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from server.adapters.local.model_files import download
from server.adapters.local.model_files.fetcher import FetchFailed, Progress, SizeLimits, fetch
from server.adapters.local.model_files.size_limits import AS_SHIPPED
from server.adapters.local.state_dir import PARTIAL_SUFFIX
from server.domain.rollout.status import FailureReason
from tests.adapters.local.file_server import FileServer, file_server
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
def http() -> Iterator[FileServer]:
    with file_server() as server:
        yield server


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """A folder that is not there yet, nor the one that it is to lie in."""
    return tmp_path / "work" / "model"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """An object store: fsspec's own in memory, in place of the one that s3fs would bring."""
    registered = importlib.import_module("fsspec.registry")._registry
    monkeypatch.setitem(registered, "s3", MemoryFileSystem)
    store = MemoryFileSystem()
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


async def refused(uri: str, into: Path, limits: SizeLimits = AS_SHIPPED) -> FetchFailed:
    with pytest.raises(FetchFailed) as caught:
        await fetch(uri, into, limits=limits)
    assert not into.exists(), "a partial result"
    assert not list(into.parent.glob(f".*{PARTIAL_SUFFIX}")), "it leaves a rest"
    return caught.value


async def eventually(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
async def test_a_file_of_this_machine_is_copied(form: str, tmp_path: Path, into: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"trained")
    model = await fetch(form.format(tmp_path / "model.joblib"), into)
    assert model == into / "model.joblib"
    assert model.read_bytes() == b"trained"


async def test_a_file_uri_is_decoded(tmp_path: Path, into: Path) -> None:
    (tmp_path / "my model.pkl").write_bytes(b"trained")
    model = await fetch((tmp_path / "my model.pkl").as_uri(), into)
    assert model.name == "my model.pkl"


async def test_a_newly_trained_model_does_not_change_the_fetched_one(
    tmp_path: Path, into: Path
) -> None:
    source = tmp_path / "model.joblib"
    source.write_bytes(b"first")
    await fetch(str(source), into)
    source.write_bytes(b"later")
    again = await fetch(str(source), into)
    assert again.read_bytes() == b"first"
    source.unlink()
    assert (await fetch(str(source), into)).read_bytes() == b"first"


async def test_an_empty_folder_is_no_fetched_model(tmp_path: Path, into: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"trained")
    into.mkdir(parents=True)
    assert (await fetch(str(tmp_path / "model.joblib"), into)).read_bytes() == b"trained"


async def test_a_folder_comes_with_everything_below_it_and_links_followed(
    tmp_path: Path, into: Path
) -> None:
    blob = tmp_path / "blobs" / "0af3"
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    source = tmp_path / "bert"
    (source / "tokenizer").mkdir(parents=True)
    (source / "tokenizer" / "vocabulary").write_bytes(b"words")
    (source / "weights").symlink_to(blob)
    (source / "more").symlink_to(blob.parent)
    model = await fetch(f"{source}/", into)
    found = {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    assert found == {
        "tokenizer/vocabulary": b"words",
        "weights": b"weights",
        "more/0af3": b"weights",
    }
    assert not any(p.is_symlink() for p in model.rglob("*"))


async def test_an_object_or_all_below_a_prefix_comes_from_an_object_store(
    s3: MemoryFileSystem, tmp_path: Path
) -> None:
    s3.pipe("/bucket/iris/model.joblib", b"trained")
    s3.pipe("/bucket/iris/extra/notes", b"")
    one = await fetch("s3://bucket/iris/model.joblib", tmp_path / "one")
    assert one.read_bytes() == b"trained"
    folder = await fetch("s3://bucket/iris/", tmp_path / "all")
    assert folder.name == "iris"
    assert (folder / "model.joblib").read_bytes() == b"trained"
    assert (folder / "extra" / "notes").read_bytes() == b""


async def test_an_object_that_was_overwritten_is_fetched_by_the_next_generation(
    s3: MemoryFileSystem, tmp_path: Path
) -> None:
    s3.pipe("/bucket/model.joblib", b"first")
    await fetch("s3://bucket/model.joblib", tmp_path / "1")
    s3.pipe("/bucket/model.joblib", b"second")
    assert (await fetch("s3://bucket/model.joblib", tmp_path / "2")).read_bytes() == b"second"


async def test_a_file_comes_over_http_in_one_request(http: FileServer, into: Path) -> None:
    http.files["/models/iris.joblib"] = os.urandom(12_000_000)
    model = await fetch(http.url("/models/iris.joblib?version=3"), into)
    assert model.name == "iris.joblib"
    assert model.read_bytes() == http.files["/models/iris.joblib"]
    assert http.asked == ["/models/iris.joblib?version=3"]


async def test_progress_is_reported_in_the_event_loop(http: FileServer, into: Path) -> None:
    http.files["/model"] = bytes(3_000_000)
    told: list[tuple[str, threading.Thread]] = []
    await fetch(
        http.url("/model"), into, lambda p: told.append((str(p), threading.current_thread()))
    )
    assert told
    assert {thread for _, thread in told} == {threading.main_thread()}
    assert all(text.endswith(" of 3 MB") for text, _ in told)


def test_progress_reads_well() -> None:
    assert str(Progress(0, 780)) == "0 B of 780 B"
    assert str(Progress(1_260_000, 98_400_000)) == "1.26 MB of 98.4 MB"
    assert str(Progress(1_260_000_000_000, None)) == "1260 GB"


async def test_the_event_loop_goes_on_meanwhile(http: FileServer, into: Path) -> None:
    http.files["/model"] = b"slow"
    http.stuck.add("/model")
    fetching = asyncio.create_task(fetch(http.url("/model"), into))
    await eventually(lambda: bool(http.asked))
    await asyncio.sleep(0)  # as long as the server is stuck, where it does not go on
    assert not fetching.done()
    fetching.cancel()


async def test_a_cancelled_fetch_is_over_at_once_and_leaves_nothing(
    http: FileServer, into: Path
) -> None:
    http.files["/model"] = bytes(3_000_000)
    http.stuck.add("/model")
    fetching = asyncio.create_task(fetch(http.url("/model"), into))
    await eventually(lambda: any(into.parent.glob(f".*{PARTIAL_SUFFIX}")))
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(fetching, PATIENCE_SECONDS)
    http.released.set()
    await eventually(lambda: not any(into.parent.iterdir()))


async def test_a_fetch_that_was_cancelled_can_be_made_again(tmp_path: Path, into: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(5_000_000))
    first = asyncio.create_task(fetch(str(tmp_path / "model"), into))
    await asyncio.sleep(0)
    first.cancel()
    model = await fetch(str(tmp_path / "model"), into)
    assert model.stat().st_size == 5_000_000


async def test_a_fetch_that_is_cancelled_while_the_disk_writes_puts_nothing_in_place(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, written = threading.Event(), threading.Event()

    def sync(place: Path) -> None:
        writing.set()
        assert written.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(download, "sync", sync)
    (tmp_path / "model").write_bytes(b"trained")
    fetching = asyncio.create_task(fetch(str(tmp_path / "model"), into))
    await asyncio.to_thread(writing.wait, PATIENCE_SECONDS)
    fetching.cancel()
    await asyncio.wait({fetching})
    written.set()
    await eventually(lambda: not any(into.parent.glob(f".*{PARTIAL_SUFFIX}")))
    assert not into.exists()


async def test_once_a_fetch_is_cancelled_its_model_is_in_place_or_never_will_be(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renaming, rename = threading.Event(), Path.rename

    def slowly(path: Path, target: Path) -> Path:
        renaming.set()
        time.sleep(0.05)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slowly)
    (tmp_path / "model").write_bytes(b"trained")
    fetching = asyncio.create_task(fetch(str(tmp_path / "model"), into))
    await asyncio.to_thread(renaming.wait, PATIENCE_SECONDS)
    fetching.cancel()
    await asyncio.wait({fetching})
    in_place = into.exists()
    await eventually(lambda: not any(into.parent.glob(f".*{PARTIAL_SUFFIX}")))
    assert into.exists() == in_place


async def test_an_answer_that_is_cut_short_is_no_model(http: FileServer, into: Path) -> None:
    http.files["/model"] = bytes(3_000_000)
    http.cut_short.add("/model")
    assert "/model cannot be read" in (await refused(http.url("/model"), into)).message


async def test_a_file_that_is_written_meanwhile_is_no_model(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model"
    source.write_bytes(bytes(3_000_000))

    def write_on(progress: Progress | None) -> None:
        with source.open("r+b") as file:
            file.write(b"new")

    with pytest.raises(FetchFailed, match="changed while it was read"):
        await asyncio.to_thread(download.download, str(source), into, write_on)
    assert not into.exists()


async def test_an_absent_file_is_named(http: FileServer, tmp_path: Path, into: Path) -> None:
    for uri in (str(tmp_path / "absent"), f"file://{tmp_path}/absent", http.url("/absent")):
        failed = await refused(uri, into)
        assert failed.message == f"there is nothing at {uri}"
        assert failed.reason is FailureReason.STORAGE_DOWNLOAD
        assert "spec.model.storage_uri" in failed.remedy


async def test_an_absent_object_is_named(s3: MemoryFileSystem, into: Path) -> None:
    failed = await refused("s3://bucket/absent", into)
    assert failed.message == "there is nothing at s3://bucket/absent"


async def test_a_refusal_over_http_says_its_status_and_no_secret(
    http: FileServer, into: Path
) -> None:
    http.forbidden.add("/model")
    failed = await refused(
        http.url("/model?signature=s3cret").replace("://", "://me:passw0rd@"), into
    )
    assert failed.message == f"{http.url('/model')} answered with HTTP status 403"


async def test_the_connections_of_a_download_are_closed_beside_the_event_loop(
    http: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, closed_in = HTTPFileSystem.close_session, list[threading.Thread]()

    def closing(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
        close(loop, session)
        assert session.closed
        closed_in.append(threading.current_thread())

    def is_closed() -> bool:
        gc.collect()
        return bool(closed_in)

    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(closing))
    http.files |= {"/whole": b"trained", "/cut": b"trained"}
    http.cut_short.add("/cut")
    for path in ("/whole", "/cut", "/absent"):
        closed_in.clear()
        with suppress(FetchFailed):
            await fetch(http.url(path), tmp_path / f"work{path}")
        await eventually(is_closed)
        assert threading.main_thread() not in closed_in, path


async def test_an_absent_server_is_named(http: FileServer, into: Path) -> None:
    http.server_close()
    failed = await refused(http.url("/model?signature=s3cret"), into)
    assert failed.message == f"no connection to the server of {http.url('/model')}"


async def test_a_filesystem_whose_package_is_absent_names_it(into: Path) -> None:
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")):
        failed = await refused(f"{scheme}://bucket/model", into)
        assert f"needs the package {package}" in failed.message
        assert f"-m pip install {package}" in failed.remedy
        assert failed.reason is FailureReason.STORAGE_SCHEME


async def test_many_downloads_at_once_end_as_each_alone_does(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"trained")
    uris = [str(tmp_path / "model.pkl"), "gs://bucket/model"] * 200
    switched_each = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        ends = await asyncio.gather(
            *(fetch(uri, tmp_path / f"{n}") for n, uri in enumerate(uris)), return_exceptions=True
        )
    finally:
        sys.setswitchinterval(switched_each)
    for n, (here, absent) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
        assert here == tmp_path / f"{2 * n}" / "model.pkl"
        assert isinstance(absent, FetchFailed)
        assert "needs the package gcsfs" in absent.message


@pytest.mark.parametrize("scheme", ["pvc", "oci", "memory", "gopher"])
async def test_another_scheme_is_refused_with_those_that_can_be_read(
    scheme: str, into: Path
) -> None:
    failed = await refused(f"{scheme}://models/iris", into)
    assert failed.message == f"this server cannot read {scheme}://"
    assert "s3" in failed.remedy
    assert failed.reason is FailureReason.STORAGE_SCHEME


@pytest.mark.parametrize(
    "uri", ["models/iris", "file://models/iris", "/", "http://127.0.0.1/", "http://[", "s3:model"]
)
async def test_what_names_no_file_is_refused(uri: str, into: Path) -> None:
    assert uri.partition(":")[0] in (await refused(uri, into)).message


async def test_a_folder_without_files_and_a_pipe_are_no_models(tmp_path: Path, into: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no files" in (await refused(str(tmp_path / "empty"), into)).message
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in (await refused(str(tmp_path / "pipe"), into)).message


def tar(names: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(names: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("pack", "suffix"),
    [(tar, ".tar.gz"), (tar, ".tgz"), (zipped, ".zip"), (tar, ".TGZ"), (zipped, ".Zip")],
)
async def test_a_lone_archive_is_unpacked(
    pack: Callable[[dict[str, bytes]], bytes], suffix: str, http: FileServer, into: Path
) -> None:
    http.files[f"/bert{suffix}"] = pack({"config.json": b"{}", "weights/a": b"1"})
    model = await fetch(http.url(f"/bert{suffix}"), into)
    assert model == into / "bert"
    assert (model / "weights" / "a").read_bytes() == b"1"
    assert list(into.iterdir()) == [model]


@pytest.mark.parametrize(
    ("path", "disposition", "redirect"),
    [
        ("/download?path=/m/bert.zip", "", ""),
        ("/?file=bert.zip&signature=abc.def", "", ""),
        ("/models/7", 'attachment; filename="bert.zip"', ""),
        ("/models/7", "attachment; filename*=UTF-8''bert.zip", ""),
        ("/models/latest", "", "/store/bert.zip?signature=s3cret"),
        ("/models/latest", "", "/download?path=/m/bert.zip"),
    ],
)
async def test_an_archive_is_known_by_the_name_that_its_server_gives_it(
    path: str, disposition: str, redirect: str, http: FileServer, into: Path
) -> None:
    asked = path.partition("?")[0]
    if redirect:
        http.redirects[asked] = redirect
    answered = (redirect or path).partition("?")[0]
    http.files[answered] = zipped({"config.json": b"{}"})
    http.dispositions[answered] = disposition
    model = await fetch(http.url(path), into)
    assert model == into / "bert"
    assert (model / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/iris.joblib?path=/m/other.zip", "", "iris.joblib"),
        ("/download?path=/m/model.json", "", "model.json"),
        ("/download?token=header.payload", "", "download"),
        ("/download", 'attachment; filename="../../escaped.pkl"', "escaped.pkl"),
        ("/download", 'attachment; filename=".."', "download"),
        ("/download", f'attachment; filename="{"x" * 300}.pkl"', "download"),
    ],
)
async def test_a_file_over_http_has_the_name_that_says_most_and_is_safe(
    path: str, disposition: str, name: str, http: FileServer, into: Path
) -> None:
    at = path.partition("?")[0]
    http.files[at] = b"trained"
    http.dispositions[at] = disposition
    assert await fetch(http.url(path), into) == into / name
    assert [file.name for file in into.iterdir()] == [name]


async def test_no_redirect_leads_to_a_file_of_this_machine_or_in_circles(
    http: FileServer, tmp_path: Path, into: Path
) -> None:
    (tmp_path / "secret.joblib").write_bytes(b"s3cret")
    for target in (f"file://{tmp_path}/secret.joblib", "ftp://127.0.0.1/x", "/model"):
        http.redirects["/model"] = target
        assert "/model" in (await refused(http.url("/model"), into)).message


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("hf://acme/bert:v2", "/acme/bert@v2"),
        ("hf://acme/bert:", "/acme/bert"),
        ("hf://acme/bert@v2", "/acme/bert@v2"),
        ("hf://acme/bert", "/acme/bert"),
    ],
)
async def test_a_revision_of_a_hub_is_named_as_on_kserve(
    uri: str, path: str, monkeypatch: pytest.MonkeyPatch, into: Path
) -> None:
    registered = importlib.import_module("fsspec.registry")._registry
    monkeypatch.setitem(registered, "hf", MemoryFileSystem)
    store = MemoryFileSystem()
    try:
        store.pipe(f"{path}/config.json", b"{}")
        assert await fetch(uri, into) == into / "bert"
        assert (into / "bert" / "config.json").read_bytes() == b"{}"
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


async def test_links_within_a_tar_file_become_copies(http: FileServer, into: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        file = tarfile.TarInfo("blobs/0af3")
        file.size = 7
        archive.addfile(file, io.BytesIO(b"weights"))
        for name, kind, target in (
            ("weights", tarfile.SYMTYPE, "blobs/0af3"),
            ("again", tarfile.LNKTYPE, "blobs/0af3"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    http.files["/bert.tgz"] = packed.getvalue()
    model = await fetch(http.url("/bert.tgz"), into)
    for name in ("weights", "again"):
        assert (model / name).read_bytes() == b"weights"
        assert not (model / name).is_symlink()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", ".", "absent"])
async def test_a_link_that_leads_elsewhere_is_refused(
    target: str, http: FileServer, into: Path
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo("weights")
        link.type, link.linkname = tarfile.SYMTYPE, target
        archive.addfile(link)
    http.files["/bert.tar"] = packed.getvalue()
    assert "bert.tar" in (await refused(http.url("/bert.tar"), into)).message


async def test_a_bomb_is_not_unpacked(http: FileServer, into: Path) -> None:
    limits = SizeLimits(bytes=2_000_000, files=100, depth=10)
    many = {str(n): b"" for n in range(101)}
    deep = {"/".join("d" * 11): b"1"}
    for files, says in (
        ({"a": bytes(3_000_000)}, "must have at most 2000000 bytes"),
        (many, "more than 100 files"),
        (deep, "more than 10 deep"),
    ):
        for suffix, pack in ((".tgz", tar), (".zip", deflated)):
            http.files[f"/bomb{suffix}"] = pack(files)
            failed = await refused(http.url(f"/bomb{suffix}"), into, limits)
            assert says in failed.message


def deflated(names: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return packed.getvalue()


async def test_a_model_beyond_the_limit_is_refused_before_it_is_read(
    http: FileServer, tmp_path: Path, into: Path
) -> None:
    limits = SizeLimits(bytes=1_000_000)
    http.files["/model"] = bytes(1_000_001)
    failed = await refused(http.url("/model"), into, limits)
    assert "MODELSERVICE_MODEL_SIZE_LIMIT" in failed.remedy
    assert http.asked == [], "its size is known beforehand"
    http.files["/model"] = bytes(1_000_000)
    assert (await fetch(http.url("/model"), into, limits=limits)).stat().st_size == 1_000_000


@pytest.fixture
def maze(tmp_path: Path) -> Path:
    """Folders with ten links each to the next: a file is found on 10^8 ways.

    No path has more than ten links: Linux permits 40, and counts those of a lookup that it begins
    anew on a busy machine once more.
    """
    for n in range(8):
        folder = tmp_path / "maze" / str(n)
        folder.mkdir(parents=True)
        for way in range(10):
            (folder / str(way)).symlink_to(folder.with_name(str(n + 1)))
    (tmp_path / "maze" / "8").mkdir()
    (tmp_path / "maze" / "8" / "model").write_bytes(b"")
    return tmp_path / "maze" / "0"


async def test_a_walk_along_links_is_bounded(maze: Path, into: Path) -> None:
    failed = await refused(str(maze), into, SizeLimits(files=1000))
    assert "more than 1000 files and folders; links may lead in circles" in failed.message


async def test_a_walk_along_links_ends_once_nobody_waits(maze: Path, into: Path) -> None:
    walk = asyncio.create_task(fetch(str(maze), into, limits=SizeLimits(files=10**9)))
    await eventually(lambda: bool(_threads_of(str(maze))))
    walk.cancel()
    await eventually(lambda: not _threads_of(str(maze)))
    assert not any(into.parent.iterdir())


async def test_links_that_form_a_cycle_are_named(tmp_path: Path, into: Path) -> None:
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "itself").symlink_to(tmp_path / "circle")
    assert "links that lead in circles" in (await refused(f"{tmp_path}/circle", into)).message


def _threads_of(uri: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == f"fetching {uri}"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip", ".tar"])
async def test_a_broken_archive_is_refused(suffix: str, http: FileServer, into: Path) -> None:
    whole = zipped({"a": bytes(99_999)}) if suffix == ".zip" else tar({"a": os.urandom(99_999)})
    http.files[f"/bert{suffix}"] = whole[: len(whole) // 2]
    failed = await refused(http.url(f"/bert{suffix}"), into)
    assert f"bert{suffix} is broken or no archive" in failed.message


async def test_an_archive_cannot_reach_out_of_its_folder(
    http: FileServer, tmp_path: Path, into: Path
) -> None:
    http.files["/bad.tgz"] = tar({"../../../escaped": b"!"})
    await refused(http.url("/bad.tgz"), into)
    http.files["/bad.zip"] = zipped({"../../../escaped": b"!"})
    await refused(http.url("/bad.zip"), into)
    assert not [p for p in tmp_path.rglob("*") if p.name == "escaped"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own can be mounted by root alone")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_is_named_and_left_with_what_it_had(
    small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").write_bytes(bytes(2_000_000))
    failed = await refused(str(tmp_path / "model"), small_disk / "model")
    assert "no space is left" in failed.message
    assert "MODELSERVICE_STATE_DIR" in failed.remedy
    (tmp_path / "model").write_bytes(bytes(1_000_000))
    failed = await refused(str(tmp_path / "model"), small_disk / "model")
    assert "no space is left" in failed.message, "a twentieth is kept free"
    (small_disk / "later").write_bytes(bytes(900_000))


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@[::1/x",
        "http://user:hunter2@ho[st/x",
        "http://user:hunter2/@host/x",
        "http://user:hunter2?x@host/x",
        "http://user:hunter2#x@host/x",
        "http:/user:hunter2@host/x",
        "user:hunter2@host/x",
        "ftp://user:hunter2@[x/y",
        "s3://key:hunter2@bu[cket/x",
    ],
)
async def test_a_password_of_a_uri_is_not_shown_also_where_its_host_cannot_be_read(
    tmp_path: Path, uri: str
) -> None:
    with pytest.raises(FetchFailed) as failed:
        await fetch(uri, tmp_path / "model")
    assert "hunter2" not in f"{failed.value.message} {failed.value.remedy}"
