"""TLS: the certificate is replaced while the server runs, and a broken one changes nothing."""

from __future__ import annotations

import datetime as dt
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from modelservice.v1.model_service_pb2 import WatchStatusRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from structlog.testing import capture_logs

from server import followed_file
from server.api.transport import server_certificate
from server.api.transport.certificate import MOST_BYTES, CertificateUnusable, Paths
from server.api.transport.listening import _has_ipv6
from server.api.transport.server_certificate import ServerCertificate
from server.settings import SettingsInvalid
from tests.alone import alone
from tests.loop_steps import LoopSteps
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving

from .requests import deploy
from .test_settings import server
from .tls_files import TlsFiles

BROKEN = "certificate cannot be replaced"
HOLDS_LOOP_SECONDS = 0.05


class Readings:
    """Counts how often a server has read its files."""

    def __init__(self) -> None:
        self.number = 0
        self._read = server_certificate.read_files

    def __call__(self, paths: Paths) -> Any:
        try:
            return self._read(paths)
        finally:
            self.number += 1

    def wait_for(self, more: int) -> None:
        ends, wanted = time.monotonic() + PATIENCE_SECONDS, self.number + more
        while self.number < wanted:
            assert time.monotonic() < ends, "the server does not read its files"
            time.sleep(0.005)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    """The server reads its files often."""
    counted = Readings()
    monkeypatch.setattr(followed_file, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(server_certificate, "read_files", counted)
    return counted


@pytest.fixture
def served(files: TlsFiles, readings: Readings) -> Iterator[Served]:
    with serving(files.settings()) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as events:
        yield events


def test_100_open_streams_live_on_while_the_certificate_is_replaced(
    files: TlsFiles, served: Served, name: str, logged: list[Any], loop_steps: LoopSteps
) -> None:
    channels = [files.channel(served.address) for _ in range(20)]
    try:
        streams = [
            ModelServiceStub(channel).WatchStatus(
                WatchStatusRequest(name=name), timeout=PATIENCE_SECONDS
            )
            for channel in channels
            for _ in range(5)
        ]
        for stream in streams:
            next(stream)
        loop_steps.reset()
        for _ in range(3):
            files.wait_until_served(served.address, files.renew())
        assert loop_steps.longest.seconds < HOLDS_LOOP_SECONDS
        with files.channel(served.address) as later:
            ModelServiceStub(later).Deploy(deploy(name))
        for stream in streams:
            assert any(message.service.name == name for message in stream), stream.details()
            assert stream.is_active()
            stream.cancel()
    finally:
        for channel in channels:
            channel.close()
    assert [event["event"] for event in logged if "certificate" in event["event"]] == [
        "certificate replaced"
    ] * 3


def encrypted(key: bytes) -> bytes:
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )


def expired(files: TlsFiles) -> None:
    files.renew(begins=-dt.timedelta(days=2), ends=-dt.timedelta(days=1))


def of_two_pairs(files: TlsFiles) -> None:
    files.put(files.issue()[0], files.issue()[1])


def of_another_first(files: TlsFiles) -> None:
    cert, key = files.issue()
    files.put(files.authority.pem + cert, key)


def on_another_curve(files: TlsFiles) -> None:
    files.renew(curve=ec.SECP521R1())


def a_loop_of_links(files: TlsFiles) -> None:
    version = files.version(None, files.content[1])
    (version / files.cert.name).symlink_to(files.cert.name)
    files.switch_to(version)


def a_folder(files: TlsFiles) -> None:
    version = files.version(files.content[0], None)
    (version / files.key.name).mkdir()
    files.switch_to(version)


def a_pipe(files: TlsFiles) -> None:
    version = files.version(None, files.content[1])
    os.mkfifo(version / files.cert.name)
    files.switch_to(version)


Break = Callable[[TlsFiles], None]
CERT, KEY = "MODELSERVICE_TLS_CERT: .*tls.crt ", "MODELSERVICE_TLS_KEY: .*tls.key "


def of_an_unknown_version(files: TlsFiles) -> None:
    der = ssl.PEM_cert_to_DER_cert(files.content[0].decode())
    changed = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x22", 1)
    files.put(ssl.DER_cert_to_PEM_cert(changed).encode(), files.content[1])


BREAKS: dict[str, tuple[Break, str]] = {
    "garbage": (lambda f: f.put(b"garbage", f.content[1]), f"{CERT}must have the server's certif"),
    "no end": (lambda f: f.put(f.content[0][:-99], f.content[1]), f"{CERT}must have the server's"),
    "unknown version": (of_an_unknown_version, f"{CERT}must have the server's"),
    "empty": (lambda f: f.put(b"", f.content[1]), f"{CERT}is empty"),
    "missing": (lambda f: f.put(None, f.content[1]), f"{CERT}cannot be read .No such file"),
    "too large": (lambda f: f.put(b" " * (MOST_BYTES + 1), b""), f"{CERT}must have at most 65536"),
    "expired": (expired, f"{CERT}expired at "),
    "too early": (lambda f: f.renew(begins=dt.timedelta(days=1)), f"{CERT}is not valid before "),
    "another first": (of_another_first, f"{CERT}must begin with the certificate of the key"),
    "unreadable": (a_loop_of_links, f"{CERT}cannot be read .Too many levels"),
    "a pipe": (a_pipe, f"{CERT}must be a file"),
    "garbage as key": (lambda f: f.put(f.content[0], b"garbage"), f"{KEY}must have a private key"),
    "no key": (lambda f: f.put(f.content[0], None), f"{KEY}cannot be read .No such file"),
    "a folder": (a_folder, f"{KEY}must be a file"),
    "key of another": (of_two_pairs, f"{KEY}does not fit the certificate"),
    "encrypted key": (lambda f: f.put(f.content[0], encrypted(f.content[1])), f"{KEY}is encrypted"),
    "another curve": (on_another_curve, f"{KEY}must have a key for RSA of 2048 to 8192 bits"),
}


def test_a_broken_replacement_changes_nothing_and_is_logged_once(
    files: TlsFiles, served: Served, readings: Readings
) -> None:
    pair = files.content
    for kind, (break_it, problem) in BREAKS.items():
        with capture_logs() as logged:
            break_it(files)
            readings.wait_for(6)
            assert files.served(served.address) == pair[0], kind
            files.put(*pair)
            readings.wait_for(4)
        [event] = [event for event in logged if "certificate" in event["event"]]
        assert (event["event"], event["log_level"]) == (BROKEN, "error")
        assert re.match(problem, event["problem"]), (kind, event["problem"])
        assert "PRIVATE KEY" not in str(event)
    files.wait_until_served(served.address, files.renew())


@pytest.mark.parametrize("kind", BREAKS)
def test_a_server_does_not_start_with_a_broken_certificate(
    kind: str, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_certificate, "_PAUSE_SECONDS", 0.01)
    break_it, problem = BREAKS[kind]
    break_it(files)
    with pytest.raises(SettingsInvalid, match=f"^{problem}"):
        Served(files.settings()).start()


def test_a_certificate_that_grpc_cannot_serve_is_refused(files: TlsFiles, tmp_path: Path) -> None:
    cert, key = tmp_path / "pss.crt", tmp_path / "pss.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"]
    more = ["-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*made, *more], check=True, capture_output=True)
    files.put(cert.read_bytes(), key.read_bytes())
    with pytest.raises(CertificateUnusable, match=f"^{KEY}must have a key for RSA .* without PSS"):
        ServerCertificate(Paths(files.cert, files.key))._load()


def test_a_pair_that_is_replaced_while_it_is_read_is_not_reported(
    files: TlsFiles, served: Served, readings: Readings, logged: list[Any]
) -> None:
    """As when Kubernetes replaces a volume between the two files."""
    replaced = threading.Event()
    read = readings._read

    def read_between(paths: Paths) -> Any:
        before = read(paths)
        if replaced.is_set():
            return before
        cert = files.renew()
        replaced.set()
        wanted.append(cert)
        return type(before)(before.cert, read(paths).key)

    wanted: list[bytes] = []
    readings._read = read_between
    readings.wait_for(6)
    assert replaced.is_set()
    files.wait_until_served(served.address, wanted[0])
    assert [event["event"] for event in logged] == ["certificate replaced"]


def test_a_start_waits_for_the_other_file_of_a_pair(files: TlsFiles, readings: Readings) -> None:
    cert, key = files.issue()
    files.put(cert, files.content[1])
    read = readings._read

    def read_then_complete(paths: Paths) -> Any:
        before = read(paths)
        files.put(cert, key)
        return before

    readings._read = read_then_complete
    with serving(files.settings()) as served:
        assert files.served(served.address) == cert
        assert readings.number >= 2


def test_calls_are_answered_while_the_files_cannot_be_read_to_their_end(
    files: TlsFiles, served: Served, readings: Readings, name: str
) -> None:
    reading, released, read = threading.Event(), threading.Event(), readings._read

    def read_slowly(paths: Paths) -> Any:
        reading.set()
        released.wait(PATIENCE_SECONDS)
        return read(paths)

    readings._read = read_slowly
    try:
        assert reading.wait(PATIENCE_SECONDS)
        with files.channel(served.address) as channel:
            assert ModelServiceStub(channel).Deploy(deploy(name), timeout=PATIENCE_SECONDS)
        assert not released.is_set()
    finally:
        released.set()


def test_each_address_of_a_name_serves_the_new_certificate(
    files: TlsFiles, readings: Readings
) -> None:
    with serving(files.settings(listen="localhost:0")) as served:
        hosts = ["127.0.0.1", *(["[::1]"] if _has_ipv6() else [])]
        for _ in range(2):
            cert = files.renew()
            for host in hosts:
                files.wait_until_served(f"{host}:{served.port}", cert)


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


async def test_a_coming_expiry_is_logged_once_a_day_and_what_has_expired_at_once(
    files: TlsFiles, logged: list[Any]
) -> None:
    files.renew(ends=dt.timedelta(days=16))
    clock = Clock()
    certificate = ServerCertificate(Paths(files.cert, files.key), clock)
    await certificate.load()
    soon, over = ("certificate expires soon", "warning"), ("certificate has expired", "error")
    logged.clear()
    for hours, expected in (
        (24, []),
        (25, [soon]),
        (23, []),
        (1, [soon]),
        (12 * 24 + 22, [soon]),
        (2, [over]),
        (23, []),
        (1, [over]),
    ):
        clock.now += dt.timedelta(hours=hours)
        certificate.check()
        assert [(event["event"], event["log_level"]) for event in logged] == expected
        logged.clear()


async def test_a_certificate_that_cannot_be_used_is_reported_once_and_used_when_its_time_comes(
    files: TlsFiles, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed_file, "TRIED_AGAIN_SECONDS", 0.0)
    clock = Clock()
    certificate = ServerCertificate(Paths(files.cert, files.key), clock)
    await certificate.load()
    files.renew()
    right = clock.now
    clock.now -= dt.timedelta(days=10_000)
    logged.clear()
    for _ in range(5):
        certificate.check()
    assert [event["event"] for event in logged] == [BROKEN]
    clock.now = right
    certificate.check()
    assert [event["event"] for event in logged] == [BROKEN, "certificate replaced"]


def test_a_certificate_that_expires_soon_is_a_warning_at_the_start(
    files: TlsFiles, logged: list[Any]
) -> None:
    files.renew(ends=dt.timedelta(days=13))
    with serving(files.settings()):
        [soon] = [event for event in logged if event["event"] == "certificate expires soon"]
    assert soon["log_level"] == "warning"
    assert dt.datetime.fromisoformat(soon["expires"]) > dt.datetime.now(dt.UTC)


@pytest.mark.processes
def test_a_server_with_tls_starts_replaces_its_certificate_and_stops(files: TlsFiles) -> None:
    with alone(**files.environment, MODELSERVICE_STOP_DELAY="0") as running:
        files.wait_until_served(running.address, files.renew())
        with files.channel(running.address) as channel:
            live = HealthCheckRequest(service="live")
            checked = health_pb2_grpc.HealthStub(channel).Check(live, timeout=PATIENCE_SECONDS)
            assert checked.status == HealthCheckResponse.SERVING
        assert running.stop() == 0
        [listening] = running.events("listening")
        assert listening["encrypted"] is True
        [replaced] = running.events("certificate replaced")
        assert set(replaced) == {"event", "level", "timestamp", "expires", "sha256"}


@pytest.mark.processes
def test_a_start_with_a_broken_certificate_ends_with_2_and_one_line(
    files: TlsFiles, tmp_path: Path
) -> None:
    of_two_pairs(files)
    ended = server(**files.environment, MODELSERVICE_STATE_DIR=str(tmp_path / "state"))
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if line.startswith("modelservice: ")]
    assert re.match(f"modelservice: {KEY}does not fit", lines[0])
    assert ended.stderr.count("\n") == 1
