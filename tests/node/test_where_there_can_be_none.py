"""Where there can be no real node one line says so, and what can be done instead."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from lab.__main__ import main
from lab.node import cgroups, packages


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


def test_a_root_that_may_make_no_control_groups_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    # In the place of the file, that it cannot be written either.
    (tmp_path / "cgroup.subtree_control").mkdir()
    monkeypatch.setattr(packages, "PACKAGES", {})
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    with pytest.raises(packages.BuildFailed, match=r"control groups.*MODELSERVICE_TEST_KUBECONFIG"):
        packages.check()
    assert not list(tmp_path.glob("modelservice-lab-*"))


def test_a_hierarchy_of_two_names_gets_one_branch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for hierarchy in ("cpu,cpuacct", "pids"):
        (tmp_path / hierarchy).mkdir()
        (tmp_path / hierarchy / "cgroup.procs").touch()
    for name in ("cpu", "cpuacct"):
        (tmp_path / name).symlink_to("cpu,cpuacct")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    cgroups.make("lab")
    assert cgroups.branches("lab") == [tmp_path / "cpu,cpuacct/lab", tmp_path / "pids/lab"]
    assert cgroups.programs("lab").is_dir()


def test_docker_s_own_programs_do_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ctr", "runc"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr(packages, "PACKAGES", {"containerd": "ctr", "runc": "runc", "other": "no-"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.missing() == ["other"]
