"""kubectl, as an administrator of the lab uses it beside the server."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from lab import Lab


def kubectl(lab: Lab, *arguments: str, stdin: str = "") -> str:
    """What kubectl prints. Raises AssertionError with its complaint when it fails."""
    cache = lab.kubeconfig.parent / "kubectl-cache"
    command = [lab.programs["kubectl"], "--kubeconfig", lab.kubeconfig, "--cache-dir", cache]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, input=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inference_service(lab: Lab, namespace: str, name: str) -> dict[str, Any]:
    """The InferenceService as `kubectl get` shows it."""
    told = kubectl(lab, "get", "inferenceservice", name, "-n", namespace, "-o", "json")
    return dict(json.loads(told))


def exists(lab: Lab, namespace: str, name: str) -> bool:
    """Whether kubectl finds the InferenceService."""
    asked = ("get", "inferenceservice", name, "-n", namespace, "--ignore-not-found", "-o", "name")
    return bool(kubectl(lab, *asked))
