"""`python -m server`: its settings, and how a wrong one ends it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server import __version__, logs, settings
from server.__main__ import main
from tests.alone import ROOT, alone, clean_environment
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused
from tests.serving import settings as made_settings

from .requests import deploy, eventually

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: t}}]
"""


def server(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=ROOT,
        env=clean_environment() | environment,
    )


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_it_serves_ends_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As process 1 of a container it gets none that it does not handle."""
    imports = tmp_path / "imports"
    # One of its imports takes as long as it likes. The signal comes in a callback of a weak
    # reference, of which the imports have some: no exception gets out of it.
    (tmp_path / "structlog.py").write_text(
        f"""import pathlib, time, weakref
def callback(_):
    pathlib.Path({str(imports)!r}).touch()
    time.sleep(3600)
referred = type("Referred", (), {{}})()
reference = weakref.ref(referred, callback)
del referred
time.sleep(3600)"""
    )
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    with subprocess.Popen([sys.executable, "-m", "server"], cwd=ROOT, env=environment) as process:
        try:
            eventually("it imports", imports.exists)
            process.send_signal(number)
            assert process.wait(PATIENCE_SECONDS) == 128 + number
        finally:
            process.kill()


@pytest.mark.processes
def test_ctrl_c_ends_a_migration_without_a_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_SECONDS)
        url = f"postgresql://ours@127.0.0.1:{silent.getsockname()[1]}/registry"
        with subprocess.Popen(
            [sys.executable, "-m", "server", "migrate"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=clean_environment() | {"MODELSERVICE_DATABASE_URL": url},
        ) as process:
            try:
                with silent.accept()[0] as connection:
                    assert connection.recv(1)
                    process.send_signal(signal.SIGINT)
                    assert process.communicate(timeout=PATIENCE_SECONDS) == (None, "")
                    assert process.returncode == 128 + signal.SIGINT
            finally:
                process.kill()


@pytest.fixture(autouse=True)
def logging_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server in this process configures would stay for all later tests, and write to what
    captures this one."""
    monkeypatch.setattr(logs, "configure", lambda log: None)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    path = tmp_path / "config"
    path.write_text(KUBECONFIG)
    return str(path)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"KSERVE_ENABLED": "perhaps"}, "KSERVE_ENABLED"),
        ({"MODELSERVICE_LISTN": "x"}, "MODELSERVICE_LISTN"),
        ({"MODELSERVICE_LISTEN": "here"}, "MODELSERVICE_LISTEN"),
        ({"MODELSERVICE_LISTEN": "0.0.0.0:50051"}, "MODELSERVICE_ALLOW_PLAINTEXT"),
        ({"MODELSERVICE_LISTEN": "[::]:50051"}, "MODELSERVICE_ALLOW_PLAINTEXT"),
        (
            {"MODELSERVICE_LISTEN": "[::]:50051"},
            "set MODELSERVICE_TLS_CERT and MODELSERVICE_TLS_KEY",
        ),
        ({"MODELSERVICE_TLS_CERT": "tls.crt"}, "MODELSERVICE_TLS_KEY: must be set"),
        ({"MODELSERVICE_TLS_KEY": "tls.key"}, "MODELSERVICE_TLS_CERT: must be set"),
        ({"MODELSERVICE_MTLS_LISTEN": "localhost:1"}, "MODELSERVICE_CLIENT_CA: must be set"),
        ({"MODELSERVICE_CLIENT_CA": "ca.crt"}, "MODELSERVICE_MTLS_LISTEN: must be set"),
        (
            {"MODELSERVICE_CLIENT_CA": "ca.crt", "MODELSERVICE_MTLS_LISTEN": "localhost:1"},
            "MODELSERVICE_TLS_CERT: must be set",
        ),
        (
            {
                "MODELSERVICE_CLIENT_CA": "ca.crt",
                "MODELSERVICE_MTLS_LISTEN": "localhost:1",
                "MODELSERVICE_TLS_CERT": "tls.crt",
                "MODELSERVICE_TLS_KEY": "tls.key",
            },
            "MODELSERVICE_AUTH: must be tokens or kubernetes",
        ),
        (
            {"MODELSERVICE_LISTEN": "0.0.0.0:1", "MODELSERVICE_ALLOW_PLAINTEXT": "true"},
            "MODELSERVICE_AUTH: must be tokens, or none to let everybody in",
        ),
        ({"MODELSERVICE_HEALTH_LISTEN": "50052"}, "MODELSERVICE_HEALTH_LISTEN"),
        (
            {"MODELSERVICE_HEALTH_LISTEN": "127.0.0.1:50051"},
            "MODELSERVICE_HEALTH_LISTEN: must be another address than MODELSERVICE_LISTEN",
        ),
        (
            {
                "MODELSERVICE_TLS_CERT": "tls.crt",
                "MODELSERVICE_TLS_KEY": "tls.key",
                "MODELSERVICE_CLIENT_CA": "ca.crt",
                "MODELSERVICE_MTLS_LISTEN": "127.0.0.1:50051",
            },
            "MODELSERVICE_MTLS_LISTEN: must be another address than MODELSERVICE_LISTEN",
        ),
        ({"MODELSERVICE_ALLOW_PLAINTEXT": "-"}, "MODELSERVICE_ALLOW_PLAINTEXT"),
        ({"MODELSERVICE_NAMESPACES": "a,B_"}, "MODELSERVICE_NAMESPACES"),
        ({"MODELSERVICE_SERVING_PORTS": "20000"}, "MODELSERVICE_SERVING_PORTS"),
        ({"MODELSERVICE_SERVING_PORT": "20000-20010"}, "did you mean MODELSERVICE_SERVING_PORTS"),
        ({"MODELSERVICE_LISTEN_PORT": "50051"}, "MODELSERVICE_LISTEN_PORT"),
        ({"MODELSERVICE_LISTEN_SERVICE_PORT": "1"}, "MODELSERVICE_LISTEN_SERVICE_PORT"),
        ({"MODELSERVICE_SERVING_PORTS": "80-90"}, "MODELSERVICE_SERVING_PORTS"),
        ({"MODELSERVICE_SERVING_PORTS": "20001-20000"}, "MODELSERVICE_SERVING_PORTS"),
        ({"MODELSERVICE_SERVING_PORTS": "60000-65536"}, "MODELSERVICE_SERVING_PORTS"),
        ({"MODELSERVICE_DATABASE_URL": "mysql://u:secret@h/d"}, "MODELSERVICE_DATABASE_URL"),
        ({"MODELSERVICE_DATABASE_URL": "sqlite:///relative"}, "MODELSERVICE_DATABASE_URL"),
        ({"MODELSERVICE_STOP_GRACE": "soon"}, "MODELSERVICE_STOP_GRACE"),
        ({"MODELSERVICE_STOP_GRACE": "inf"}, "MODELSERVICE_STOP_GRACE"),
        ({"MODELSERVICE_STOP_GRACE": "-1"}, "MODELSERVICE_STOP_GRACE"),
        ({"MODELSERVICE_STOP_DELAY": "60"}, "MODELSERVICE_STOP_DELAY"),
        ({"MODELSERVICE_LOG_FORMAT": "xml"}, "MODELSERVICE_LOG_FORMAT"),
        ({"MODELSERVICE_LOG_LEVEL": "loud"}, "MODELSERVICE_LOG_LEVEL"),
        ({"MODELSERVICE_TEST_CRASH_AT": "noon"}, "MODELSERVICE_TEST_CRASH_AT"),
        ({"KUBERNETES_DEFAULT_NAMESPACE": "A"}, "KUBERNETES_DEFAULT_NAMESPACE"),
        (
            {"KUBERNETES_IN_CLUSTER": "true", "KUBERNETES_KUBECONFIG": "x"},
            "KUBERNETES_IN_CLUSTER and KUBERNETES_KUBECONFIG",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(environment, named, monkeypatch, capsys) -> None:
    for variable in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("modelservice: ")
    assert named in said.err
    assert "secret" not in said.err


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KSERVE_ENABLED", "perhaps", "must be true or false, got 'perhaps'"),
        (
            "MODELSERVICE_LISTEN",
            "here",
            "must be an address and a port, such as 127.0.0.1:50051 or [::1]:50051, got 'here'",
        ),
        ("MODELSERVICE_MAX_CALLS", "0", "must be at least 1, got '0'"),
        ("MODELSERVICE_REVISIONS", "1", "must be at least 2, got '1'"),
        ("MODELSERVICE_REVISIONS", "51", "must be at most 50, got '51'"),
        (
            "MODELSERVICE_AUDIENCE",
            "a" * 254,
            f"must have at most 253 characters, got '{'a' * 64}'...",
        ),
        ("MODELSERVICE_MAX_CALLS", "many", "must be a whole number, got 'many'"),
        ("MODELSERVICE_MAX_CALLS", "1.5", "must be a whole number, got '1.5'"),
        ("MODELSERVICE_STOP_GRACE", "soon", "must be a number of seconds, got 'soon'"),
        ("MODELSERVICE_STOP_GRACE", "-1", "must be at least 0, got '-1'"),
        ("MODELSERVICE_PROGRESS_DEADLINE", "0", "must be more than 0, got '0'"),
        ("MODELSERVICE_LOG_FORMAT", "xml", "must be json or console, got 'xml'"),
        (
            "MODELSERVICE_LOG_LEVEL",
            "\x1b[2J" + "loud" * 99,
            rf"must be debug, info, warning or error, got '\x1b[2J{('loud' * 15)}'...",
        ),
        (
            "MODELSERVICE_MODEL_SIZE_LIMIT",
            "big",
            "must be a number of bytes above 0, such as 100Gi, got 'big'",
        ),
        (
            "MODELSERVICE_SERVICES_MEMORY",
            "0",
            "must be a number of bytes above 0, such as 100Gi, got '0'",
        ),
        (
            "MODELSERVICE_DATABASE_URL",
            "mysql://u:secret@h/d",
            "must begin with postgresql:// or sqlite:////",
        ),
        (
            "MODELSERVICE_NAMESPACES",
            "a,B_",
            "must have lower-case letters, digits and '-' only, and begin and end with a letter or"
            " digit, got 'B_'",
        ),
        (
            "KSERVE_ENABLE",
            "true",
            "there is no such setting; did you mean KSERVE_ENABLED?; --help lists them",
        ),
        (
            "ENABLE_KSERVE",
            "true",
            "there is no such setting; did you mean KSERVE_ENABLED?; --help lists them",
        ),
        (
            "MODELSERVICE_LISTN",
            "x",
            "there is no such setting; did you mean MODELSERVICE_LISTEN?; --help lists them",
        ),
        ("MODELSERVICE_X", "x", "there is no such setting; --help lists them"),
    ],
)
def test_the_error_of_a_setting_has_what_must_be_and_what_was_given(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(other)
    monkeypatch.setenv(variable, value)
    with pytest.raises(settings.SettingsInvalid) as raised:
        settings.load()
    assert str(raised.value) == f"{variable}: {message}"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"KSERVE_ENABLED": "1", "KUBERNETES_KUBECONFIG": "/no/where"}, "/no/where"),
        ({"KSERVE_ENABLED": "1", "HOME": "/no/where"}, "KUBERNETES_KUBECONFIG"),
        ({"KSERVE_ENABLED": "1", "KUBECONFIG": "/no/a:/no/b"}, "/no/a:/no/b"),
        ({"KSERVE_ENABLED": "1", "KUBERNETES_IN_CLUSTER": "1"}, "service account"),
    ],
)
def test_a_start_without_a_usable_cluster_ends_with_2(environment, named) -> None:
    ended = server(**environment)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert named in ended.stderr


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "MODELSERVICE_STATE_DIR"),
        ({"KSERVE_ENABLED": "true"}, "KUBERNETES_KUBECONFIG"),
        ({"MODELSERVICE_STATE_DIR": "~nobody-at-all/x"}, "MODELSERVICE_STATE_DIR"),
    ],
)
@pytest.mark.parametrize("command", [[], ["migrate"]])
def test_without_a_home_directory_the_error_names_the_setting_to_set(
    environment, named, command, monkeypatch, capsys
) -> None:
    for variable in {"HOME", *set(os.environ) - set(clean_environment())}:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    if command and named == "KUBERNETES_KUBECONFIG":
        named = "MODELSERVICE_DATABASE_URL"
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"modelservice: {named}: ")


@pytest.mark.processes
def test_a_database_url_that_cannot_be_read_ends_a_start_with_2_and_is_not_shown(tmp_path) -> None:
    url = "postgresql://u:a:secret@h:x/d"
    ended = server(MODELSERVICE_STATE_DIR=str(tmp_path), MODELSERVICE_DATABASE_URL=url)
    assert ended.returncode == 2
    assert "MODELSERVICE_DATABASE_URL" in ended.stderr
    assert "secret" not in ended.stderr


def test_the_variables_of_modelctl_are_no_settings_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for other in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(other)
    read = set[str]()
    for source in (ROOT / "client/modelservice_client").rglob("*.py"):
        read.update(re.findall(r'environ\b.*"(MODELSERVICE_\w+)"', source.read_text()))
    assert read == {"MODELSERVICE_SERVER", "MODELSERVICE_TOKEN_FILE"}
    for variable in read:
        monkeypatch.setenv(variable, "x")
    settings.load()


@pytest.mark.processes
def test_what_kubernetes_injects_for_a_service_of_our_name_is_no_setting() -> None:
    injected = {
        "MODELSERVICE_SERVICE_HOST": "10.96.0.7",
        "MODELSERVICE_SERVICE_PORT": "50051",
        "MODELSERVICE_SERVICE_PORT_GRPC": "50051",
        "MODELSERVICE_PORT": "tcp://10.96.0.7:50051",
        "MODELSERVICE_PORT_50051_TCP": "tcp://10.96.0.7:50051",
        "MODELSERVICE_PORT_50051_TCP_ADDR": "10.96.0.7",
        "MODELSERVICE_CANARY_SERVICE_HOST": "10.96.0.8",
        "MODELSERVICE_CANARY_SERVICE_PORT": "50051",
        "MODELSERVICE_CANARY_PORT": "tcp://10.96.0.8:50051",
        "MODELSERVICE_CANARY_PORT_50051_TCP_PORT": "50051",
        "KSERVE_ENABLED_SERVICE_HOST": "10.96.0.9",
        "KUBERNETES_NAMESPACE": "from the downward API",
        "MODELSERVICE_TEST_KUBECONFIG": "/somewhere",
    }
    enabled = {"KSERVE_ENABLED": "true", "HOME": "/no/where"}
    assert "KUBERNETES_KUBECONFIG" in server(**enabled, **injected).stderr


@pytest.mark.processes
def test_an_unreachable_cluster_shows_in_health_and_does_not_end_the_server(kubeconfig) -> None:
    enabled = {"KSERVE_ENABLED": "true", "KUBERNETES_KUBECONFIG": kubeconfig}
    with alone("server", **enabled, MODELSERVICE_STOP_DELAY="0") as running:
        with grpc.insecure_channel(running.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            statuses = [
                health.Check(HealthCheckRequest(service=service), wait_for_ready=True).status
                for service in ("live", "", "cluster")
            ]
            assert statuses == [
                HealthCheckResponse.SERVING,
                HealthCheckResponse.NOT_SERVING,
                HealthCheckResponse.NOT_SERVING,
            ]
            call = ModelServiceStub(channel).Deploy
            refused(StatusCode.UNAVAILABLE, "CLUSTER_UNAVAILABLE", call, deploy("svc"))
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("listen", "named", "auth"),
    [
        ("0.0.0.0:50051", None, "kubernetes"),
        ("[::]:50051", None, "kubernetes"),
        ("example.org:50051", None, "kubernetes"),
        ("0.0.0.0:50051", "none", "none"),
        ("127.0.0.1:50051", None, "none"),
        ("localhost:50051", None, "none"),
        ("127.0.0.1:50051", "kubernetes", "kubernetes"),
    ],
)
def test_on_kserve_callers_beyond_loopback_have_an_identity_unless_none_is_named(
    listen: str, named: str | None, auth: str
) -> None:
    loaded = made_settings(
        serving={"listen": listen, "allow_plaintext": True}, identity={"auth": named}
    )
    loaded.require_consistent()
    assert loaded.auth == auth


@pytest.mark.processes
def test_help_lists_every_setting_with_its_default() -> None:
    said = server("--help")
    assert said.returncode == 0
    assert re.search(r"MODELSERVICE_LISTEN .*\[127\.0\.0\.1:50051\]", said.stdout)
    assert re.search(r"KUBERNETES_DEFAULT_NAMESPACE .*\[model-serving\]", said.stdout)
    assert "MODELSERVICE_TEST" not in said.stdout


def test_the_operations_document_lists_the_settings_as_help_does() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    table = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (?:`(.+)`)? \|$", table, re.MULTILINE)
    described = [
        (variable, f"{what[0].lower()}{what[1:]} [{default or 'unset'}]")
        for variable, what, default in rows
    ]
    assert described == list(settings.described())


@pytest.mark.processes
def test_version_prints_the_version() -> None:
    assert server("--version").stdout == f"modelservice {__version__}\n"
