"""The life of a service in Knative mode by grpcurl, as docs/knative.md shows it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab import Lab, debian
from tests.cluster.serving import Server
from tests.transcript import Shell, blocks, transcript

from .test_knative_lab import PODS

HEADING = "The life of a service"
# As the document says: after this time nobody has called the service for long enough.
PAUSE = "sleep 12"
UNTIL_NO_POD = 'until [ -z "$(kubectl get pods -o name)" ]; do :; done'


def test_the_life_of_a_service_as_the_document_shows_it(
    lab: Lab, server: Server, namespace: str, tmp_path: Path
) -> None:
    if not shutil.which("jq"):
        debian.install(["jq"], print)
    programs = {str(lab.programs[name].parent) for name in ("grpcurl", "kubectl")}
    shell = Shell(":".join([*programs, os.environ["PATH"]]), tmp_path)
    replaced = {
        PAUSE: UNTIL_NO_POD,
        "kubectl ": f"kubectl --kubeconfig {lab.kubeconfig} -n {namespace} ",
    }
    try:
        [functions] = blocks("docs/knative.md", HEADING, "bash")
        functions = functions.replace("localhost:50051", server.address)
        shell.run(functions.replace('"namespace": "default"', f'"namespace": "{namespace}"'))
        for step in transcript("docs/knative.md", HEADING):
            printed = shell.play(step, replaced).shown.replace(namespace, "default").splitlines()
            shown = step.shown.splitlines()
            # The first line and the last are the same each time, not the states on the way.
            assert (printed[0], printed[-1]) == (shown[0], shown[-1]), (step.command, printed)
            assert [line for line in printed if "READY" in line][:-1] == []
    finally:
        shell.close()
    pods = lab.get(PODS.format(namespace))["items"]
    assert [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]] == []
