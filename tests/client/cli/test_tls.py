"""modelctl over TLS, with the certificate that docs/operations.md makes, and with tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from modelservice.v1 import model_service_pb2_grpc
from modelservice.v1.model_service_pb2 import ListRequest, ListResponse
from modelservice_client import NotReachable
from modelservice_client.cli.unreachable import Endpoint

from tests.api.test_tls_document import make_certificate
from tests.serving import serving, settings
from tests.transcript import transcript

from .running import modelctl


def test_the_lines_of_the_document_reach_a_server_with_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [
        step.command.split()
        for step in transcript("docs/operations.md", "With a CA of your own")
        if step.command.startswith("modelctl ")
    ]
    assert len(commands) == 2
    files = {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    with serving(settings(serving=files | {"listen": "localhost:0"})) as served:
        served.wait_until_synced()
        for _, *words in commands:
            run = modelctl(*(word.replace(":50051", f":{served.port}") for word in words))
            assert run.exit_code == 0, run.stderr


class Recorder(model_service_pb2_grpc.ModelServiceServicer):
    """Lists nothing, and keeps the credentials of each call, and for whom it acts."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.acting: list[tuple[str, str]] = []
        self.refusal: Status | None = None

    def List(self, request: ListRequest, context: grpc.ServicerContext) -> ListResponse:
        self.seen.append(str(dict(context.invocation_metadata()).get("authorization")))
        self.acting += [
            (key, value)
            for key, value in context.invocation_metadata()
            if key.startswith("impersonate-")
        ]
        if self.refusal:
            details = self.refusal.SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, self.refusal.message)
        return ListResponse()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    make_certificate(folder)
    return folder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def address(certificate: Path, recorder: Recorder) -> Iterator[str]:
    """A server with TLS behind which the recorder is."""
    pair = [(certificate / name).read_bytes() for name in ("tls.key", "tls.crt")]
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(recorder, server)
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([tuple(pair)]))
        server.start()
        yield f"localhost:{port}"
        server.stop(None).wait()


@pytest.mark.parametrize("named", ["--token-file", "MODELSERVICE_TOKEN_FILE", "context"])
def test_the_token_of_a_file_reaches_a_server_with_tls(
    named: str, address: str, recorder: Recorder, certificate: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    ca = ("--ca", str(certificate / "ca.crt"))
    at, env = ("--server", address, *ca), {}
    if named == "--token-file":
        at += (named, str(token))
    elif named == "context":
        assert modelctl("config", "set", "a", *at, "--token-file", str(token)).exit_code == 0
        at = ()
    else:
        env[named] = str(token)
    assert modelctl("list", *at, **env).exit_code == 0
    token.write_text("second\n")
    assert modelctl("list", *at, **env).exit_code == 0
    assert recorder.seen == ["Bearer first", "Bearer second"]


def test_the_user_and_the_groups_to_act_for_are_sent(
    address: str, recorder: Recorder, certificate: Path
) -> None:
    to = ("--server", address, "--ca", str(certificate / "ca.crt"))
    named = ("--as", "jane", "--as-group", "risk", "--as-group", "ops")
    assert modelctl("list", *to, *named).exit_code == 0
    assert recorder.acting == [
        ("impersonate-user", "jane"),
        ("impersonate-group", "risk"),
        ("impersonate-group", "ops"),
    ]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--as-group", "risk"), "--as-group needs --as"),
        (("--as", "ja\nne"), "--as and --as-group must be printable ASCII"),
    ],
)
def test_a_user_that_cannot_be_named_is_wrong_usage(flags: tuple[str, ...], problem: str) -> None:
    run = modelctl("list", "--server", "localhost:1", *flags)
    assert (run.exit_code, run.stderr) == (2, f"error: {problem}\n")


def test_a_token_is_not_sent_in_plaintext_to_another_machine(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    to = ("--server", "192.0.2.1:50051", "--plaintext", "--patience", "0")
    run = modelctl("list", *to, "--token-file", str(token))
    assert run.exit_code == 2
    assert run.stderr == (
        "error: a token must not be sent to 192.0.2.1:50051 in plaintext: use TLS\n"
    )


def not_reachable(text: str) -> NotReachable:
    return NotReachable(text, code=grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("called", "remedy"),
    [
        (Endpoint(tls=False), "give --tls"),
        (Endpoint(), "give --cert and --key"),
        (Endpoint(certificate=True), "takes this client certificate"),
        (Endpoint(heard=True), "Check the address, and that the server runs there."),
    ],
)
def test_a_server_that_closed_a_connection_is_remembered_whatever_error_comes_last(
    called: Endpoint, remedy: str
) -> None:
    called.note(not_reachable("last error: ipv4:127.0.0.1:1: Socket closed"))
    assert remedy in called.remedy_of(not_reachable("last error: ipv6:[::1]:1: Connection refused"))


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        ((), "Give a token with --token-file FILE."),
        (("--cert", "tls.crt", "--key", "tls.key"), "at the port of MODELSERVICE_MTLS_LISTEN"),
        (("--token-file", "token"), ""),
    ],
)
def test_a_call_without_credentials_says_what_to_give(
    flags: tuple[str, ...],
    remedy: str,
    address: str,
    recorder: Recorder,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(certificate)
    Path("token").write_text("expired")
    info = ErrorInfo(domain="modelservice", reason="UNAUTHENTICATED")
    status = Status(code=16, message="the call has no token")
    status.details.add().Pack(info)
    recorder.refusal = status
    run = modelctl("list", "--server", address, "--ca", "ca.crt", *flags)
    assert run.exit_code == 80
    error, *advice = run.stderr.splitlines()
    assert error == "error: UNAUTHENTICATED: the call has no token"
    assert len(advice) == bool(remedy)
    assert all(remedy in line for line in advice)


@pytest.mark.parametrize(
    ("flags", "cause", "remedy"),
    [
        (("--tls",), "its certificate is not trusted", "--ca FILE"),
        (("--ca", "ca.crt", "--server-name", "other"), "is for another name", "--server-name"),
        (("--plaintext",), "it uses TLS", "Leave out --plaintext"),
    ],
)
def test_a_handshake_that_fails_says_why_and_what_to_give(
    flags: tuple[str, ...],
    cause: str,
    remedy: str,
    address: str,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(certificate)
    run = modelctl("list", "--server", address, "--patience", "0", *flags)
    assert run.exit_code == 1
    error, advice = run.stderr.splitlines()
    assert error.startswith(f"error: no server answers at {address}: ")
    assert cause in error
    assert remedy in advice
