"""TLS and tokens of a client, on a real server that records what it is sent."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import grpc
import modelservice_client as ms
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import GetResponse
from modelservice.v1.model_service_pb2 import WatchStatusResponse as Message
from modelservice.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from modelservice_client.credentials import is_local

from lab.credentials import write_loopback_certificate
from tests.client.faces import client
from tests.client.test_faces import eventually, read
from tests.patience import PATIENCE_SECONDS

TOKEN = "token-of-the-test"


class Recorder(ModelServiceServicer):
    """Answers Get, and keeps the metadata of each call. `repeats`: it is put into the error, as a
    proxy may do. A Get of `held` waits for a Get of something else."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.repeats = False
        self._other = threading.Event()

    def Get(self, request: Any, context: grpc.ServicerContext) -> GetResponse:
        sent = dict(context.invocation_metadata())
        self.sent.append(sent)
        if request.name == "held":
            assert self._other.wait(PATIENCE_SECONDS)
        self._other.set()
        if self.repeats:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"not {sent}")
        return GetResponse()

    def WatchStatus(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        sent = dict(context.invocation_metadata())
        self.sent.append(sent)
        yield Message(type=Message.TYPE_SYNCED)
        assert self._other.wait(PATIENCE_SECONDS)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, f"not {sent}")

    @property
    def authorizations(self) -> list[Any]:
        return [sent.get("authorization") for sent in self.sent]


@contextmanager
def recorded(
    recorder: Recorder, credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        add_ModelServiceServicer_to_server(recorder, server)
        port = (
            server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else server.add_insecure_port("127.0.0.1:0")
        )
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def address(recorder: Recorder) -> Iterator[str]:
    with recorded(recorder) as address:
        yield address


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1, which is its own authority."""
    folder = tmp_path_factory.mktemp("certificate") / "tls"
    write_loopback_certificate(folder)
    return folder


async def test_a_token_file_is_read_again_when_it_changes(
    kind: str, recorder: Recorder, address: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with client(kind, address, token_file=file) as face:
        await face.call("get", "iris")
        # As kubelet replaces a projected token: by a rename, maybe with the same size.
        (tmp_path / "new").write_text("other\n")
        (tmp_path / "new").rename(file)
        await face.call("get", "iris")
        # As a shell does that is about to write another one.
        file.write_text("")
        await face.call("get", "iris")
        file.unlink()
        await face.call("get", "iris")
    assert recorder.authorizations == ["Bearer first", *["Bearer other"] * 3]


class Expiring(Recorder):
    """Ends a watch with the first token when that `expires`."""

    def __init__(self) -> None:
        super().__init__()
        self.expires = threading.Event()

    def WatchStatus(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        self.sent.append(dict(context.invocation_metadata()))
        if self.authorizations[-1] == "Bearer first":
            yield Message(type=Message.TYPE_SYNCED, resume_token="t")
            assert self.expires.wait(PATIENCE_SECONDS)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")
        service = InferenceService(namespace="ns", name="iris", uid="1")
        yield Message(type=Message.TYPE_CHANGED, service=service)


async def test_a_watch_whose_token_expires_goes_on_with_the_one_in_the_file_then(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    recorder = Expiring()
    with recorded(recorder) as address:
        async with (
            client(kind, address, token_file=file) as face,
            face.watch("iris") as messages,
        ):
            assert (await messages.next()).type == Message.TYPE_SYNCED
            (tmp_path / "new").write_text("second\n")
            (tmp_path / "new").rename(file)
            recorder.expires.set()
            assert (await messages.next()).type == Message.TYPE_CHANGED
    assert recorder.authorizations == ["Bearer first", "Bearer second"]


async def test_a_token_comes_from_a_text_or_a_function(
    kind: str, recorder: Recorder, address: str
) -> None:
    made = iter(["one", "two"])
    for token in (TOKEN, lambda: next(made)):
        async with client(kind, address, token=token, metadata=[("X-Team", "vision")]) as face:
            await face.call("get", "iris")
    async with client(kind, address) as face:
        await face.call("get", "iris")
    assert recorder.authorizations == [f"Bearer {TOKEN}", "Bearer one", None]
    assert [sent.get("x-team") for sent in recorder.sent] == ["vision", "vision", None]
    assert recorder.sent[0]["user-agent"].startswith("modelservice-client/")


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """A token file on a disk that hangs: a pipe into which nobody writes until the end."""
    file = tmp_path / "hanging"
    os.mkfifo(file)
    yield file
    os.close(os.open(file, os.O_RDWR))


async def test_calls_end_in_their_time_while_the_token_file_hangs(
    kind: str, recorder: Recorder, address: str, hanging: Path
) -> None:
    async def called() -> list[Any]:
        async with client(kind, address, token_file=hanging) as face:
            calls = [face.call("get", "iris", timeout=0.5) for _ in range(40)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            # The program's own threads are free.
            await asyncio.to_thread(bool)
            return ended

    # Nothing of it holds up the end of the loop.
    async with asyncio.timeout(PATIENCE_SECONDS):
        ended = await asyncio.to_thread(asyncio.run, called())
    for error in ended:
        assert isinstance(error, ms.Unauthenticated)
        assert error.timed_out
        assert f"no token: {hanging} has given none for" in str(error)
    assert recorder.sent == []
    assert [thread.name for thread in threading.enumerate()].count("modelservice-token") <= 16


async def test_a_call_goes_on_once_the_token_file_is_read(
    kind: str, recorder: Recorder, address: str, hanging: Path
) -> None:
    async with client(kind, address, token_file=hanging) as face:
        call = asyncio.create_task(face.call("get", "iris"))
        # It opens once it is read.
        await asyncio.to_thread(hanging.write_text, TOKEN)
        await call
    assert recorder.authorizations == [f"Bearer {TOKEN}"]


class Withheld:
    """A token's function that makes none before the end of the test."""

    def __init__(self) -> None:
        self.asked, self._end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.asked.set()
        assert self._end.wait(PATIENCE_SECONDS)
        return TOKEN

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def withheld() -> Iterator[Withheld]:
    token = Withheld()
    yield token
    token.end()


@pytest.mark.parametrize("method", ["get", "watch"])
async def test_closing_a_client_ends_a_call_that_waits_for_its_token(
    method: str, kind: str, recorder: Recorder, address: str, withheld: Withheld
) -> None:
    async with client(kind, address, token=withheld) as face:
        call = asyncio.create_task(face.call(method, "iris"))
        await eventually("it waits", withheld.asked.is_set)
        await face.close()
        with pytest.raises(ms.ClientClosed):
            # Long before the call would be tried again.
            await asyncio.wait_for(call, 15)
    assert recorder.sent == []


async def test_closing_a_watch_ends_its_reader_that_waits_for_its_token(
    kind: str, recorder: Recorder, address: str, withheld: Withheld
) -> None:
    async with client(kind, address, token=withheld) as face:
        watch = face.client.watch()
        reader = asyncio.create_task(read(watch, print))
        await eventually("it waits", withheld.asked.is_set)
        watch.close()
        await asyncio.wait_for(reader, 15)
    assert recorder.sent == []


async def test_a_call_for_whose_token_no_thread_can_be_started_ends_with_the_cause(
    kind: str, recorder: Recorder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "modelservice-token":
            raise RuntimeError("can't start new thread")
        start(thread)

    async with client(kind, address, token=lambda: TOKEN) as face:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ms.Unauthenticated, match="no thread can be started"):
            await face.call("get", "iris")
        monkeypatch.undo()
        await face.call("get", "iris")
    assert recorder.authorizations == [f"Bearer {TOKEN}"]


async def test_the_function_of_a_token_sees_for_whom_the_call_is(
    kind: str, recorder: Recorder, address: str
) -> None:
    user = ContextVar[str]("user")

    async def called_for(name: str) -> None:
        user.set(name)
        await face.call("get", name)

    async with client(kind, address, token=user.get) as face:
        names = [f"user-{number}" for number in range(40)]
        await asyncio.gather(*map(called_for, names))
    assert sorted(recorder.authorizations) == sorted(f"Bearer {name}" for name in names)


async def test_a_function_that_has_no_token_left_ends_the_call(
    kind: str, recorder: Recorder, address: str
) -> None:
    tokens = iter(["only"])
    async with client(kind, address, token=lambda: next(tokens)) as face:
        await face.call("get", "iris")
        async with asyncio.timeout(PATIENCE_SECONDS):
            for method in ("get", "watch"):
                with pytest.raises(RuntimeError, match="token's function raised StopIteration"):
                    await face.call(method, "iris")
    assert recorder.authorizations == ["Bearer only"]


async def test_a_function_that_raises_stop_async_iteration_ends_the_call(
    kind: str, address: str
) -> None:
    def no_token() -> str:
        raise StopAsyncIteration

    async with client(kind, address, token=no_token) as face, asyncio.timeout(PATIENCE_SECONDS):
        for method in ("get", "watch"):
            with pytest.raises(RuntimeError, match="function raised StopAsyncIteration"):
                await face.call(method, "iris")


async def test_a_token_that_is_none_ends_the_call_and_is_not_in_its_text(
    kind: str, recorder: Recorder, address: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    for content in ("", "two words", "x" * 10_000, "not ascii: ß"):
        file.write_text(content)
        async with client(kind, address, token_file=file) as face:
            with pytest.raises(ms.Unauthenticated, match="must be 1 to 8192") as raised:
                await face.call("get", "iris")
        assert not content or content not in str(raised.value)
    async with client(kind, address, token_file=tmp_path / "absent") as face:
        with pytest.raises(ms.Unauthenticated, match="absent: No such file"):
            await face.call("get", "iris")
    assert recorder.sent == []


@pytest.mark.parametrize(
    "given", [{"token": TOKEN}, {"metadata": [("Authorization", f"Bearer {TOKEN}")]}]
)
async def test_a_token_is_in_no_text(
    given: dict[str, Any], kind: str, recorder: Recorder, address: str
) -> None:
    recorder.repeats = True
    async with client(kind, address, **given) as face:
        assert TOKEN not in repr(face.client)
        assert TOKEN not in repr(vars(face.client))
        with pytest.raises(ms.PermissionDenied) as raised:
            await face.call("get", "iris")
    error = raised.value
    assert TOKEN not in f"{error} {error!r} {vars(error)} {error.__cause__}"
    assert recorder.authorizations == [f"Bearer {TOKEN}"]


async def test_a_token_is_in_no_error_of_its_call_after_it_was_replaced(
    kind: str, recorder: Recorder, address: str
) -> None:
    tokens = iter(["first-token", "second-token", "third-token"])
    recorder.repeats = True
    async with client(kind, address, token=lambda: next(tokens)) as face:
        watch = asyncio.create_task(face.call("watch", "iris"))
        held = asyncio.create_task(face.call("get", "held"))
        await eventually("both are open", lambda: len(recorder.sent) == 2)
        third = asyncio.create_task(face.call("get", "iris"))
        for call in (watch, held, third):
            with pytest.raises(ms.PermissionDenied, match="authorization") as raised:
                await call
            assert "-token" not in f"{raised.value} {vars(raised.value)}"


def test_a_token_is_not_sent_in_plaintext_to_another_machine() -> None:
    with pytest.raises(ValueError, match=r"must not be sent to example\.org:1 in plaintext"):
        ms.Client("example.org:1", tls=False, token=TOKEN)
    with pytest.raises(ValueError, match="in plaintext"):
        ms.Client("example.org:1", tls=False, metadata=[("Authorization", TOKEN)])
    ms.Client("example.org:1", token=TOKEN).close()
    ms.Client("example.org:1", tls=False, token=TOKEN, plaintext_token=True).close()
    with pytest.raises(ValueError, match="must not both be set"):
        ms.Client("example.org:1", token=TOKEN, token_file=os.devnull)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.9.1", True),
        ("[::1]:1", True),
        ("unix:/run/socket", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("ipv6:[::1]:1", True),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("dns://127.0.0.1/example.org:1", False),
        # A name means what the named DNS server says.
        ("dns://8.8.8.8/localhost:1", False),
        ("dns://8.8.8.8/127.0.0.1:1", True),
        ("xds:///localhost", False),
        ("10.0.0.1:1", False),
    ],
)
def test_only_addresses_of_this_machine_count_as_local(target: str, local: bool) -> None:
    assert is_local(target) is local


async def test_a_call_over_tls_carries_the_token(
    kind: str, recorder: Recorder, certificate: Path
) -> None:
    with recorded(recorder, server_credentials(certificate)) as address:
        tls = ms.Tls(ca_file=certificate / "tls.crt")
        async with client(kind, address, tls=tls, token=TOKEN) as face:
            await face.call("get", "iris")
    assert recorder.authorizations == [f"Bearer {TOKEN}"]


async def test_a_handshake_that_fails_for_good_is_not_tried_again(
    kind: str, recorder: Recorder, certificate: Path, address: str
) -> None:
    with recorded(recorder, server_credentials(certificate)) as encrypted:
        ca = certificate / "tls.crt"
        for target, tls, why in (
            (encrypted, True, "CERTIFICATE_VERIFY_FAILED.*ca_file of Tls"),
            (encrypted, ms.Tls(ca_file=ca, server_name="x.example"), "Hostname.*server_name of"),
            (address, ms.Tls(ca_file=ca), "WRONG_VERSION_NUMBER.*use tls=False"),
        ):
            async with client(kind, target, tls=tls) as face:
                with pytest.raises(ms.NotReachable, match=why) as raised:
                    await face.call("get", "iris")
            assert f"Get to {target}: the TLS handshake fails" in str(raised.value)
            assert "no server has answered" not in str(raised.value)
            assert not raised.value.passes
    assert recorder.sent == []


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("content", [b"", b"\x30\x82", b"-----BEGIN CERTIFICATE-----\nno\n", None])
def test_a_file_of_tls_that_has_not_what_it_must_is_named(
    certificate: Path, tmp_path: Path, field: str, content: bytes | None
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_bytes(content)
    pair = {"cert_file": certificate / "tls.crt", "key_file": certificate / "tls.key"}
    with pytest.raises((ValueError, OSError)) as raised:
        ms.Client("localhost:1", tls=ms.Tls(**pair | {field: file}))
    if content is None:
        assert isinstance(raised.value, FileNotFoundError)
        assert f"{field} {file}: No such file" in str(raised.value)
    else:
        what = "the certificate's private key" if field == "key_file" else "certificates"
        assert str(raised.value).startswith(f"{field} {file} must have {what} in PEM")


def test_a_key_that_is_encrypted_damaged_or_anothers_is_refused(
    certificate: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file.pem"
    file.write_bytes("# Autorität\n".encode() + (certificate / "tls.crt").read_bytes())
    key = certificate / "tls.key"
    ms.Client("localhost:1", tls=ms.Tls(ca_file=file, cert_file=file, key_file=key)).close()
    text = key.read_bytes()
    encrypted = serialization.load_pem_private_key(text, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"secret"),
    )
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for wrong in (encrypted, other, text[:100], b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"):
        (tmp_path / "wrong.pem").write_bytes(wrong)
        with pytest.raises(ValueError, match="must have the certificate's private key in PEM"):
            ms.Client("localhost:1", tls=ms.Tls(cert_file=file, key_file=tmp_path / "wrong.pem"))


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
    return grpc.ssl_server_credentials([pair])
