"""The prediction that docs/api.md shows, on a real node."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import NodeLab, debian
from lab.images import models
from tests.cluster.serving import Server
from tests.transcript import blocks


@pytest.mark.timeout(600)
def test_the_prediction_of_the_api_document(
    node_lab: NodeLab, server: Server, namespace: str, tmp_path: Path
) -> None:
    node_lab.put_models(models(print), namespace)
    if not shutil.which("jq"):
        debian.install(["jq"], print)
    [script] = blocks("docs/api.md", "A prediction on KServe", "bash")
    script = script.replace('"namespace": "default"', f'"namespace": "{namespace}"')
    script = script.replace("kubectl get", f"kubectl -n {namespace} get")
    programs = {node_lab.programs[name].parent for name in ("grpcurl", "kubectl")}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script.replace("localhost:50051", server.address)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env={
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
            "KUBECONFIG": str(node_lab.kubeconfig),
        },
    )
    assert done.returncode == 0, done.stderr
    predicted = re.findall(r'"data": ?\[(\d+)\]', done.stdout)
    documented = re.findall(r'grep \'"data":\\\[(\d+)\\\]', script)
    assert predicted == documented != []
