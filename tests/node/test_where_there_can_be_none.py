"""Where there can be no real node one line says so, and what can be done instead."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.cluster.lab.__main__ import main
from tests.cluster.lab.node import packages


@pytest.mark.parametrize(
    ("where", "attribute", "value", "told"),
    [
        (packages.os, "geteuid", lambda: 1000, "needs root"),
        (packages.sys, "platform", "darwin", "needs Linux"),
    ],
    ids=["not root", "not Linux"],
)
def test_make_node_lab_names_a_kind_cluster_instead(
    where: object,
    attribute: str,
    value: object,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["lab", "--node", "real"])
    monkeypatch.setattr(where, attribute, value)
    # The signals are those of the tests' own process.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert "MODELSERVICE_TEST_KUBECONFIG" in line


def test_a_machine_without_the_packages_and_without_apt_is_told_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "PACKAGES", {"containerd": "/nowhere/containerd"})
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(packages.BuildFailed, match="needs containerd, and no apt-get"):
        packages.check()
