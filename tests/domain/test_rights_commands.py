"""The command with which an administrator checks a right of a caller."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from server.domain.caller import Access, Caller, Resource

USER = "system:serviceaccount:recommendations:training-pipeline"
ATTRIBUTES = {"verb": "update", "group": "registry.modelservice.dev", "resource": "projects"}


def test_it_names_the_user_the_right_and_where() -> None:
    caller = Caller("jane", groups=("risk", "system:authenticated"))
    services = Access("list", Resource.SERVICES, "team-a")
    assert services.kubectl_check(caller) == (
        "kubectl auth can-i list inferenceservices.serving.kserve.io --namespace=team-a --as=jane"
        " --as-group=risk"
    )
    assert "--all-namespaces" in Access("list", Resource.SERVICES).kubectl_check(caller)
    logs = Access("get", Resource.POD_LOGS, "team-a")
    assert " get pods --subresource=log --namespace=team-a " in logs.kubectl_check(caller)


@pytest.mark.parametrize("project", ["fraud", "it's", "'; touch pwned; '", 'a"b\\n', "$(id)", "ü"])
def test_a_shell_gives_kubectl_the_project_as_it_is(tmp_path: Path, project: str) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\ncat; echo; echo "$@"\n')
    kubectl.chmod(0o755)
    command = Access("update", Resource.PROJECTS, name=project).kubectl_check(Caller(USER))
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    review, options = done.stdout.splitlines()
    asked = yaml.safe_load(review)["spec"]["resourceAttributes"]
    assert asked == ATTRIBUTES | {"name": project}
    assert options == f"create --validate=false --as={USER} -f- -ojsonpath={{.status.allowed}}"
    assert [path.name for path in tmp_path.iterdir()] == ["kubectl"]


def test_it_fits_into_a_status_with_names_of_usual_lengths() -> None:
    access = Access("update", Resource.PROJECTS, name="recommendations")
    message = (
        f"the user {USER!a} may not {access}; check with: {access.kubectl_check(Caller(USER))}"
    )
    assert len(message) < 512
