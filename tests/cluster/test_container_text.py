"""What a container wrote that can read what callers may not reaches no caller, by any way."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress

import pytest
from grpc import StatusCode
from kubernetes.client.exceptions import ConflictException
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.registry_pb2 import ModelVersion

from lab import Lab
from tests.refusals import Refusal
from tests.registry.team import Team, eventually, wish

from .asking import TIMEOUT, Reason, get
from .fixtures import StartReplica
from .recording import Recording, Until
from .serving import Server

PLANTED = "open-sesame-1234"
HELD_BACK = "(not shown: the container has "
RBAC = "rbac.authorization.k8s.io"


@pytest.fixture
def server(lab: Lab, replica: StartReplica, sqlite_url: str) -> Server:
    return replica({"MODELSERVICE_DATABASE_URL": sqlite_url})


@pytest.fixture
def team(server: Server, namespace: str) -> Team:
    team = Team(server.channel, namespace)
    team.register({"crash": ModelVersion(image="lab/crash:3")})
    return team


def plant(lab: Lab, namespace: str, name: str) -> None:
    """Have the pods' containers have written the text when they ended last, where their status has
    not changed meanwhile."""
    selector = f"labelSelector=serving.kserve.io/inferenceservice%3D{name}"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for pod in lab.get(f"{pods}?{selector}")["items"]:
        container = pod["status"].get("containerStatuses", [{}])[0]
        states = (container.get(state, {}) for state in ("state", "lastState"))
        ended = [state["terminated"] for state in states if "terminated" in state]
        for end in ended:
            end["message"] = f"cannot log in: {PLANTED}"
        version = {"resourceVersion": pod["metadata"]["resourceVersion"]}
        status = {"metadata": version, "status": {"containerStatuses": [container]}}
        path = f"{pods}/{pod['metadata']['name']}/status"
        if ended:
            with suppress(ConflictException):
                lab.request("PATCH", path, status, "application/merge-patch+json")


def wait_told(lab: Lab, team: Team, name: str, words: str) -> services_pb.InferenceService:
    """The service as it was when its failure had these words: its container may exit again."""
    told: list[services_pb.InferenceService] = []

    def is_told() -> bool:
        plant(lab, team.namespace, name)
        told.append(get(team.models, team.namespace, name))
        return words in told[-1].status.failure.message

    eventually(is_told, lambda: told[-1])
    return told[-1]


def test_what_a_container_with_a_secret_wrote_is_in_no_answer_no_error_and_no_record(
    lab: Lab, team: Team
) -> None:
    login = {"name": "login", "namespace": team.namespace}
    data = {"password": b64encode(PLANTED.encode()).decode()}
    lab.apply({"apiVersion": "v1", "kind": "Secret", "metadata": login, "data": data})
    secret_env = {"LOGIN": services_pb.SecretKeyRef(secret="login", key="password")}
    request = wish("holds", "crash")
    request.spec.MergeFrom(services_pb.InferenceServiceSpec(secret_env=secret_env))
    holds = team.models.Deploy(request, timeout=TIMEOUT)
    team.deploy("tells", "crash")
    watches = [Recording(team.models, team.namespace, name) for name in ("holds", "tells", "")]
    assert PLANTED in str(wait_told(lab, team, "tells", PLANTED)), "nothing is held there"
    failure = wait_told(lab, team, "holds", HELD_BACK).status.failure
    assert (failure.reason, failure.exit_code) == (Reason.REASON_CRASH_LOOP, 3)
    assert failure.remedy

    refusal = refused_wait(lab, team, holds, HELD_BACK)
    assert HELD_BACK in refusal.failure.message
    record = holds.service.deployment_id

    def is_on_record() -> bool:
        plant(lab, team.namespace, "holds")
        return HELD_BACK in team.record(record).failure.message

    eventually(is_on_record, lambda: team.record(record))
    told = [
        str(get(team.models, team.namespace, "holds")),
        *(str(s) for s in team.services() if s.name == "holds"),
        *(str(s) for watch in watches for s in watch.services if s.name == "holds"),
        str(refusal.details),
        str(refusal),
        str(team.record(record)),
        *(str(r) for r in team.records().values() if r.id == record),
    ]
    for watch in watches:
        watch.close()
    assert len(told) > 5
    assert not [text for text in told if PLANTED in text]


def refused_wait(lab: Lab, team: Team, deployed: pb.DeployResponse, words: str) -> Refusal:
    """How a wait ends for what has failed already, with these words: the container may have exited
    again since they were planted."""
    ready, rollout_id = Until.UNTIL_READY, deployed.rollout_id
    name = deployed.service.name
    refusals: list[Refusal] = []

    def is_told() -> bool:
        plant(lab, team.namespace, name)
        wait = Recording(team.models, team.namespace, name, until=ready, rollout_id=rollout_id)
        refusal = wait.end()
        assert refusal
        assert refusal.code is StatusCode.FAILED_PRECONDITION
        refusals.append(refusal)
        return words in refusal.failure.message

    eventually(is_told, lambda: refusals[-1])
    return refusals[-1]


def test_a_role_for_the_account_of_the_pods_holds_their_text_back_until_it_is_taken_away(
    lab: Lab, team: Team
) -> None:
    team.deploy("tells", "crash")
    assert PLANTED in str(wait_told(lab, team, "tells", PLANTED))
    account = {"kind": "ServiceAccount", "name": "default", "namespace": team.namespace}
    bound = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "views", "namespace": "default"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"},
        "subjects": [account],
    }
    lab.apply(bound)
    held = wait_told(
        lab, team, "tells", f"{HELD_BACK}a token of its ServiceAccount, which is bound"
    )
    assert PLANTED not in str(held)
    lab.delete(bound)
    assert PLANTED in str(wait_told(lab, team, "tells", PLANTED))
