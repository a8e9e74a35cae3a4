"""modelctl, as a process, against real servers that it cannot talk to: it ends long before its
patience, with the cause and what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.alone import ROOT, clean_environment
from tests.client.tls_ports import Ports, tls_ports
from tests.patience import PATIENCE_SECONDS

MINE = "--cert mine.crt --key mine.key"
ALERT = "it closes the connection after the TLS handshake"
# The port, the flags, the cause, and words of the remedy.
TABLE = {
    "no client certificate": (
        "client certificates",
        "--ca ca.crt",
        ALERT,
        ("client certificates only, give --cert and --key", "Behind a proxy"),
    ),
    "a client certificate of another CA": (
        "client certificates",
        "--ca ca.crt --cert strange.crt --key strange.key",
        ALERT,
        ("must be of a CA that the server trusts, and not expired", "Behind a proxy"),
    ),
    "an expired client certificate": (
        "client certificates",
        "--ca ca.crt --cert old.crt --key old.key",
        ALERT,
        ("must be of a CA that the server trusts, and not expired", "Behind a proxy"),
    ),
    "plaintext to client certificates": (
        "client certificates",
        "--plaintext",
        "it uses TLS",
        ("Leave out --plaintext",),
    ),
    "plaintext to TLS": ("TLS", "--plaintext", "it uses TLS", ("Leave out --plaintext",)),
    "plaintext to TLS of this machine": ("TLS", "", "it uses TLS", ("give --tls",)),
    "TLS to plaintext": ("plaintext", "--tls", "it does not use TLS", ("Give --plaintext",)),
    "no CA": ("TLS", "--tls", "its certificate is not trusted", ("with --ca FILE",)),
    "a wrong CA": (
        "TLS",
        "--ca other-ca.crt",
        "its certificate is not trusted",
        ("with --ca FILE",),
    ),
    "a wrong CA and a client certificate": (
        "client certificates",
        f"--ca other-ca.crt {MINE}",
        "its certificate is not trusted",
        ("with --ca FILE",),
    ),
    "an expired server": (
        "expired",
        "--ca ca.crt",
        "its certificate has expired",
        ("certificate must be renewed",),
    ),
    "a wrong name": (
        "TLS",
        "--ca ca.crt --server-name other.example",
        "its certificate is for another name",
        ("with --server-name",),
    ),
}
# Calls that are repeated, that wait, and that are never sent twice.
COMMANDS = {
    "list": "list",
    "deploy": "deploy iris --image example.org/iris:1",
    "status": "status iris --watch",
    "create": "registry model create fraud scorer",
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with tls_ports(tmp_path_factory.mktemp("ports")) as ports:
        yield ports


def run(ports: Ports, command: str, port: str, flags: str) -> subprocess.CompletedProcess[str]:
    """A run that would take ten times the patience of tests to lose its own."""
    patience = str(10 * PATIENCE_SECONDS)
    at = ("--server", ports.addresses[port], "--patience", patience, *ports.files(flags))
    environment = clean_environment()
    environment |= {
        "PYTHONPATH": f"{environment['PYTHONPATH']}:{ROOT / 'client'}",
        "XDG_CONFIG_HOME": str(ports.folder),
    }
    return subprocess.run(
        [sys.executable, "-m", "modelservice_client.cli", *command.split(), *at],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def says(ports: Ports, case: str, command: str) -> None:
    port, flags, cause, remedies = TABLE[case]
    ended = run(ports, command, port, flags)
    assert ended.returncode == 1, ended
    [error] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: no server answers at {ports.addresses[port]}"), ended
    assert error.endswith(f": {cause}"), ended
    [remedy] = [line for line in ended.stderr.splitlines() if line.startswith("remedy ")]
    assert [words for words in remedies if words not in remedy] == [], ended


@pytest.mark.parametrize("case", TABLE)
def test_a_connection_that_cannot_work_is_given_up_soon_with_its_cause(
    case: str, ports: Ports
) -> None:
    says(ports, case, COMMANDS["list"])


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "list"])
@pytest.mark.parametrize("case", ["no client certificate", "plaintext to TLS", "a wrong CA"])
def test_each_kind_of_call_is_given_up_soon(case: str, command: str, ports: Ports) -> None:
    says(ports, case, COMMANDS[command])


def test_the_certificate_that_the_port_takes_gets_in(ports: Ports) -> None:
    ended = run(ports, COMMANDS["list"], "client certificates", f"--ca ca.crt {MINE}")
    assert ended.returncode == 0, ended
