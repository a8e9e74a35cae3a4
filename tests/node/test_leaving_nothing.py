"""A lab with a network of its own leaves the machine as it was, however it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Cluster, ComponentFailed, booted_node_lab, images, wait_until
from tests.patience import PATIENCE_SECONDS

from .traces import Traces, machine, traces

# Each boots beside the one that all other tests share: two at once do not meet.
pytestmark = [pytest.mark.usefixtures("node_lab"), pytest.mark.timeout(600)]

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "stays", "namespace": "default"},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": images.PYTHON,
                "command": ["sleep", "infinity"],
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch", "subPath": "below"}],
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    },
}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(
    ("node", "mode"), [("real", "standard"), ("real", "knative"), ("simulated", "knative")]
)
def test_nothing_is_left_of_a_lab_that_is_ended_by(
    how: signal.Signals, node: str, mode: str
) -> None:
    before = machine()
    with running(f"--node={node}", f"--mode={mode}") as (process, folder):
        left_by = traces(folder)
        assert {str(left_by.folder), str(left_by.link)} <= set(left_by.left())
        process.send_signal(how)
        process.wait(PATIENCE_SECONDS)
    wait_until(lambda: not left_by.left(), f"all is gone: {left_by}")
    assert machine() == before


@contextmanager
def running(*flags: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A lab in a process of its own, with a pod on it, and its folder."""
    command = [sys.executable, "-m", "lab", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            while "Ctrl-C ends it" not in printed:
                line = process.stdout.readline()
                assert line, printed
                printed += line
            [kubeconfig] = re.findall(r"export KUBECONFIG=(\S+)$", printed, re.MULTILINE)
            start_pod(Path(kubeconfig))
            yield process, Path(kubeconfig).parent
        finally:
            process.terminate()


def start_pod(kubeconfig: Path) -> None:
    cluster = Cluster(kubeconfig, kubeconfig.parent)
    cluster.apply(POD)
    path = cluster.path_of(POD)
    wait_until(lambda: cluster.get(path)["status"]["phase"] == "Running", "the pod runs")


def test_nothing_is_left_of_a_boot_that_fails_but_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = machine()
    seen: list[Traces] = []

    def fail_half_way(step: str) -> None:
        if step.startswith("KServe's resources"):
            [folder] = tmp_path.glob("modelservice-lab-*")
            seen.append(traces(folder))
            raise ComponentFailed("half-way")

    with pytest.raises(ComponentFailed, match="half-way"), booted_node_lab(fail_half_way):
        pytest.fail("it booted")
    [left_by] = seen
    wait_until(lambda: left_by.left() == [str(left_by.folder)], "all but the folder is gone")
    assert machine() == before
    assert (left_by.folder / "logs" / "kubelet.log").exists()
